"""Whatever a tokenizer does with a text, that text alone becomes a blank example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.data.rows import NO_CONTENT, NO_LABEL
from tasks.data.tokenization import FAILED, OUT_OF_RANGE, TOO_SHORT, Reader, tokenize


class Panic(BaseException):
    """As what Rust panics with: no Exception."""


class Tokenizer:
    """Makes of a text what the table says: a row, or an error to raise."""

    pad_token_id = 0

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table

    def __call__(self, text: str, **_options: Any) -> dict[str, Any]:
        made = self._table[text]
        if isinstance(made, BaseException):
            raise made
        return {"input_ids": made}


def read(made: Any, *, least: int = 1) -> Any:
    """A text that is sound, the one that is not, and another that is sound."""
    table = {"one": [1, 2], "odd": made, "two": [3]}
    reader = Reader(tokenizer=Tokenizer(table), max_length=4, least=least, tokens=10, padding=0)
    return tokenize(reader, texts=["one", "odd", "two"], labels=[0, 1, 0])


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ([], TOO_SHORT),
        ([10], OUT_OF_RANGE),
        ([1, -1], OUT_OF_RANGE),
        ([2**31], OUT_OF_RANGE),
        ([2**70], FAILED),
        ([[1], [2]], FAILED),
        ([[1, 2], [3]], FAILED),
        (["word"], FAILED),
        (None, FAILED),
        (ValueError("odd"), FAILED),
        (Panic("odd"), FAILED),
    ],
    ids=str,
)
def test_a_text_that_cannot_be_used_is_blank_and_alone_in_that(made: Any, why: str) -> None:
    found = read(made)
    assert dict(found.blank) == {why: (1,)}
    assert found.examples.sizes.tolist() == [2, 0, 1]
    assert found.examples.tokens.tolist() == [1, 2, 3]
    assert len(found.examples) == 3


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_person_who_stops_is_heard(stop: type[BaseException]) -> None:
    with pytest.raises(stop):
        read(stop())


def test_a_row_longer_than_was_asked_for_is_cut() -> None:
    """Batches are no wider than the job allows, whatever a tokenizer makes of being asked for that."""
    found = read(list(range(1, 10)))
    assert not found.blank
    assert found.examples.sizes.tolist() == [2, 4, 1]


def test_a_language_model_takes_no_text_of_one_token() -> None:
    found = read([4], least=2)
    assert dict(found.blank) == {TOO_SHORT: (1, 2)}


def test_missing_texts_and_labels_are_blank() -> None:
    reader = Reader(tokenizer=Tokenizer({"one": [1], "": [1]}), max_length=4, least=1, tokens=10, padding=0)
    found = tokenize(reader, texts=["one", None, "one"], labels=[0, 1, None])
    assert dict(found.blank) == {NO_CONTENT: (1,), NO_LABEL: (2,)}
    assert np.array_equal(found.examples.sizes, [1, 0, 0])
    assert tokenize(reader, texts=["one", None], labels=None).examples.labels is None
