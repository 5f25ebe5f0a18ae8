"""From texts to tokens: a total function, in which a text that cannot be used becomes a blank example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import DataError
from tasks.data.examples import Examples
from tasks.data.table import Table
from tasks.model.adapted_model import AdaptedModel

_Row = NDArray[np.int32]

NO_TEXT = "no text, or one that cannot be decoded"
NO_LABEL = "no label, or one that is not declared"
FAILED = "the tokenizer fails on the text"
OUT_OF_RANGE = "a token that the model does not know"
TOO_SHORT = "too few tokens"


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """n examples, and which rows are blank among them, by why; rows count from 0."""

    examples: Examples
    blank: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What a model reads texts with: its tokenizer, and the bounds of what it can take.

    Texts are cut to ``max_length`` tokens and must have ``least``; the model knows so many ``tokens``.
    """

    tokenizer: Any
    max_length: int
    least: int
    tokens: int

    @classmethod
    def of(cls, adapted: AdaptedModel) -> Reader:
        """That of a model with an adapter. A language model predicts from the second token on."""
        return cls(
            tokenizer=adapted.tokenizer,
            max_length=adapted.spec.max_length,
            least=2 if adapted.spec.task == "causal-lm" else 1,
            tokens=adapted.tokens,
        )


def tokenize(
    reader: Reader, *, texts: Sequence[str | None], labels: Sequence[int | None] | None
) -> Tokenized:
    """Tokenize texts, each cut to what a reader takes: as many examples as there are texts.

    A blank example has no tokens, and contributes nothing to anything. That is what becomes of a text or a
    label that is None, and of a text on which the tokenizer fails, or of which it makes too few tokens or
    one that the model does not know. So what one row holds decides about that row alone, and nothing that
    it holds raises an error.
    """
    rows: list[_Row] = []
    why: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        # One call a text, whatever becomes of it: in a call with others, one could decide about them, and
        # what is asked again would take longer.
        reason, kept = _judged(_encode(reader, text or ""), reader)
        if text is None:
            reason = NO_TEXT
        elif labels is not None and labels[place] is None:
            reason = NO_LABEL
        if reason is not None:
            why.setdefault(reason, []).append(place)
        rows.append(kept if reason is None else np.zeros(0, np.int32))
    lengths = [len(row) for row in rows]
    examples = Examples(
        tokens=np.concatenate([np.zeros(0, np.int32), *rows]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=None if labels is None else np.array([label or 0 for label in labels], np.int64),
        padding=int(reader.tokenizer.pad_token_id or 0),
    )
    return Tokenized(
        examples=examples, blank=MappingProxyType({reason: tuple(found) for reason, found in why.items()})
    )


def tokenize_rows(
    adapted: AdaptedModel, table: Table, rows: NDArray[np.int64], *, labels: tuple[str, ...]
) -> Examples:
    """Some rows of a table as examples, for those who want to hear of a text that cannot be used.

    Raises DataError where an example would be blank.
    """
    numbers = None
    if table.labels is not None:
        number = {label: index for index, label in enumerate(labels)}
        numbers = [number[table.labels[row]] for row in rows]
    texts = [table.texts[row] for row in rows]
    found = tokenize(Reader.of(adapted), texts=texts, labels=numbers)
    for reason, places in found.blank.items():
        raise DataError(
            f"data.text: {len(places)} texts cannot be used, the first in row {rows[places[0]] + 1}: "
            f"{reason}; remove them from the data"
        )
    return found.examples


def _encode(reader: Reader, text: str) -> Any:
    """The tokenizer's row; None for a text on which it fails."""
    try:
        return reader.tokenizer(
            text,
            truncation=True,
            max_length=reader.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:  # what Rust panics with is no Exception
        return None


def _judged(found: Any, reader: Reader) -> tuple[str | None, _Row]:
    """Why a tokenizer's row cannot be used, None if it can, and the row."""
    nothing = np.zeros(0, np.int32)
    try:
        row = np.asarray(found, np.int64)
    except (TypeError, ValueError, OverflowError):
        return FAILED, nothing
    if row.ndim != 1:
        return FAILED, nothing
    row = row[: reader.max_length]  # whatever the tokenizer makes of being asked for that
    if len(row) and not (row.min() >= 0 and row.max() < min(reader.tokens, 2**31)):
        return OUT_OF_RANGE, nothing
    return (TOO_SHORT if len(row) < reader.least else None), row.astype(np.int32)
