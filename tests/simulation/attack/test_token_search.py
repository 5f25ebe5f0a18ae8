"""The search for a text by its features, on features that are the mean of the words' own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from simulation.attack import token_search
from simulation.attack.readable_texts import ReadableTexts
from simulation.attack.token_search import TokenSearch

WORDS, WIDTH, LONGEST = 300, 64, 16
LABELS = 3


class MeanTexts:
    """Texts whose features are the mean of their words': ``looked`` counts the texts that were tried."""

    def __init__(self) -> None:
        self.vocabulary, self.most, self.looked = np.arange(WORDS), LONGEST, 0
        self._of_word = np.random.default_rng(0).standard_normal((WORDS, WIDTH)).astype(np.float32)

    def written(self, tokens: Sequence[int]) -> list[int]:
        return list(tokens)

    def pooled(self, _head: str, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        self.looked += len(texts)
        return np.stack([self.of(text) for text in texts])

    def of(self, text: Sequence[int]) -> NDArray[np.float32]:
        return self._of_word[list(text)].mean(0)


def search_in(texts: MeanTexts) -> TokenSearch:
    return TokenSearch(cast(ReadableTexts, texts), head="head")


def step(texts: MeanTexts, batch: Sequence[tuple[list[int], int]]) -> tuple[Any, Any]:
    """How far a step of texts with these labels moves a head that begins at zero: weight and bias."""
    weight, bias = np.zeros((LABELS, WIDTH)), np.zeros(LABELS)
    for text, label in batch:
        gradient = 1 / LABELS - (np.arange(LABELS) == label)
        weight += np.outer(gradient, texts.of(text))
        bias += gradient
    return -0.1 * weight, -0.1 * bias


@pytest.mark.parametrize("length", [1, 3, 6])
def test_one_text_is_found(length: int) -> None:
    texts = MeanTexts()
    text = list(range(0, 20 * length, 20))
    found = search_in(texts).find(*step(texts, [(text, 1)]))
    assert found == frozenset(text)


def test_fewer_looks_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, found, looked = np.random.default_rng(1), [], []
    wanted = [generator.choice(WORDS, 8, replace=False).tolist() for _ in range(5)]
    for kept in (token_search._KEPT, token_search._TRIED):
        monkeypatch.setattr(token_search, "_KEPT", kept)
        texts = MeanTexts()
        search = search_in(texts)
        texts.looked = 0
        found.append([search.find(*step(texts, [(text, 0)])) for text in wanted])
        looked.append(texts.looked)
    assert found[0] == found[1]
    assert looked[0] < 0.6 * looked[1]


def test_two_texts_of_one_step_are_told_apart_by_their_labels() -> None:
    texts = MeanTexts()
    one, other = list(range(0, 60, 10)), list(range(5, 65, 10))
    found = search_in(texts).find(*step(texts, [(one, 0), (other, 2)]))
    assert found in (frozenset(one), frozenset(other))


def test_rounding_is_no_difference() -> None:
    """Two labels that a text has not get the same row, but for rounding: that is no text to look for."""
    texts = MeanTexts()
    text = list(range(0, 120, 20))
    weight, bias = step(texts, [(text, 1)])
    weight[2] += 1e-6 * np.random.default_rng(0).standard_normal(WIDTH)
    bias[2] += 1e-9
    assert search_in(texts).find(weight, bias) == frozenset(text)


def test_nothing_is_found_in_nothing() -> None:
    assert search_in(MeanTexts()).find(np.zeros((LABELS, WIDTH)), np.zeros(LABELS)) == frozenset()
