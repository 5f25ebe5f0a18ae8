"""Tokens from the features that a classifier's head read: the gradient of its weight holds them.

A head that begins at zero gives every label the same probability. So one text's gradient is a multiple of
its features in each row of the weight, and the same multiple of 1 in the bias: their ratio is the features.
What text has them is then sought greedily, word by word, with the model; and words are exchanged while
that brings it nearer. Of a step of a few texts each row has a mixture; the difference of two rows has one
label's texts alone, where the other label has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from simulation.attack.readable_texts import ReadableTexts

# Words that are tried at each place of a text: those that by themselves come nearest.
_TRIED = 100
# Of these so many are tried with the model: those that would come nearest if words only added up.
_KEPT = 50
# A text that comes no nearer by so many words more is long enough.
_PATIENCE = 3
# Rows that differ by less, over the longest, differ by rounding.
_ALIKE = 0.01
# What keeps directions in which words hardly differ from deciding, over the mean variance.
_RIDGE = 0.01

_Rows = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Words:
    """Words to try, and what each adds to a text's features times its length, as it was seen last."""

    tokens: list[int]
    adds: _Rows


class TokenSearch:
    """Seeks a text by its features, as ``head``, a module of the base model, reads them.

    Features are compared in directions that are as wide as one-word texts differ in them.
    """

    def __init__(self, texts: ReadableTexts, *, head: str) -> None:
        self._texts, self._head = texts, head
        alone = self._features([[int(token)] for token in texts.vocabulary])
        self._mean, self._norm = alone.mean(0), float(np.linalg.norm(alone, axis=1).mean())
        values, vectors = np.linalg.eigh(np.cov(alone.T))
        self._evened = vectors / np.sqrt(np.maximum(values, 0.0) + _RIDGE * values.mean())
        compared = (alone - self._mean) @ self._evened
        self._alone = _unit(compared)
        # What stands around each text, and what each word alone adds to that, as totals.
        around = self._texts.written([])
        self._frame = self._totals([[]])[0] if around else np.zeros(compared.shape[1])
        self._adds = compared * (len(around) + 1) - self._frame

    def find(self, weight: _Rows, bias: _Rows | None) -> frozenset[int]:
        """The tokens of a text, from how far a step moved the head; none if nothing moved.

        ``weight`` is float64[labels, width] and ``bias`` float64[labels]. Without a bias the features'
        length is taken for that of a word's. Of the rows and their differences that is taken which is
        nearest to any one-word text.
        """
        candidates = [self._wanted(row, None if bias is None else bias[k]) for k, row in enumerate(weight)]
        longest = float(np.linalg.norm(weight, axis=1).max())
        for one, other in combinations(range(len(weight)), 2):
            row = weight[one] - weight[other]
            if np.linalg.norm(row) > _ALIKE * longest:
                apart = None if bias is None else bias[one] - bias[other]
                candidates.append(self._wanted(row, apart))
        wanted = [one for one in candidates if one is not None]
        if not wanted:
            return frozenset()
        rows = np.stack(wanted)
        chosen = rows[int((self._alone @ _unit(rows).T).max(0).argmax())]
        order = np.argsort(-(self._alone @ chosen), kind="stable")[:_TRIED]
        tokens = [int(token) for token in self._texts.vocabulary[order]]
        words = _Words(tokens=tokens, adds=self._adds[order])
        return frozenset(words.tokens[place] for place in self._exchanged(words, chosen))

    def _wanted(self, row: _Rows, bias: float | None) -> _Rows | None:
        """Features that a row of the gradient tells, as they are compared; None for a row of nothing."""
        length = float(np.linalg.norm(row))
        if not length or bias == 0.0:
            return None
        features = row * (self._norm / length) if bias is None else row / bias
        return np.asarray((features - self._mean) @ self._evened, np.float64)

    def _grown(self, words: _Words, wanted: _Rows) -> tuple[list[int], float]:
        """The nearest of texts that each have the best word more than the last, and how far it is.

        A text is a list of places in ``words``.
        """
        text, total = list[int](), self._frame
        best, nearest = text, np.inf
        while len(text) < min(self._texts.most, len(best) + _PATIENCE):
            word, total, away = self._looked(words, text, len(text), total, wanted)
            text = [*text, word]
            if away < nearest:
                best, nearest = text, away
        return best, nearest

    def _exchanged(self, words: _Words, wanted: _Rows) -> list[int]:
        """The text that was grown, with each word in turn exchanged for the best, where that is nearer."""
        text, nearest = self._grown(words, wanted)
        for place in range(len(text)):
            others = [*text[:place], *text[place + 1 :]]
            tokens = [words.tokens[word] for word in others]
            rest = self._totals([tokens])[0] if others else self._frame
            word, _, away = self._looked(words, others, place, rest, wanted)
            if away < nearest:
                nearest, text = away, [*others[:place], word, *others[place:]]
        return text

    def _looked(
        self, words: _Words, text: list[int], place: int, total: _Rows, wanted: _Rows
    ) -> tuple[int, _Rows, float]:
        """Which word at a place of a text brings it nearest: the word, the text's total, and how far it is.

        ``total`` is that of the text without it. What words add to it is taken from when each was seen
        last, and the model looks at those alone that would come nearest so.
        """
        length = len(self._texts.written(text)) + 1
        order = np.argsort(_away((total + words.adds) / length, wanted), kind="stable")[:_KEPT]
        texts = [[*text[:place], int(word), *text[place:]] for word in order]
        found = self._totals([[words.tokens[word] for word in one] for one in texts])
        words.adds[order] = found - total
        away = _away(found / length, wanted)
        best = int(away.argmin())
        return int(order[best]), found[best], float(away[best])

    def _totals(self, texts: list[list[int]]) -> _Rows:
        """The features of texts, as they are compared, times their lengths: float64[n, width]."""
        lengths = np.array([[len(self._texts.written(text))] for text in texts])
        return np.asarray((self._features(texts) - self._mean) @ self._evened * lengths, np.float64)

    def _features(self, texts: list[list[int]]) -> _Rows:
        written = [self._texts.written(text) for text in texts]
        return self._texts.pooled(self._head, written).astype(np.float64)


def _away(rows: _Rows, wanted: _Rows) -> _Rows:
    return np.asarray(np.linalg.norm(rows - wanted, axis=1), np.float64)


def _unit(rows: _Rows) -> _Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30), np.float64)
