"""From texts to tokens: a total function, in which a text that cannot be used becomes a blank example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import offsets_of
from tasks.data.rows import NO_CONTENT, NO_LABEL
from tasks.data.token_examples import TokenExamples
from tasks.task import Encoded

_Row = NDArray[np.int32]

FAILED = "the tokenizer fails on the text"
OUT_OF_RANGE = "a token that the model does not know"
TOO_SHORT = "too few tokens"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What a model reads texts with: its tokenizer, and the bounds of what it can take.

    Texts are cut to ``max_length`` tokens and must have ``least``; the model knows so many ``tokens``, of
    which ``padding`` fills texts up. Of answers, ``max_answer`` tokens are learned; all if it is None. Of a
    document, so many ``windows`` are read. A model that ``forks`` reads two endings after one beginning.
    After a prompt so many ``endings`` are written.
    """

    tokenizer: Any
    max_length: int
    least: int
    tokens: int
    padding: int
    max_answer: int | None = None
    windows: int = 1
    forks: bool = False
    endings: int = 1


def tokenize(
    reader: Reader, *, texts: Sequence[str | None], labels: Sequence[int | None] | None
) -> Encoded:
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
        reason, kept = judged(_encode(reader, text or ""), reader)
        if text is None:
            reason = NO_CONTENT
        elif labels is not None and labels[place] is None:
            reason = NO_LABEL
        if reason is not None:
            why.setdefault(reason, []).append(place)
        rows.append(kept if reason is None else np.zeros(0, np.int32))
    examples = TokenExamples(
        tokens=np.concatenate([np.zeros(0, np.int32), *rows]),
        offsets=offsets_of(np.array([len(row) for row in rows], np.int64)),
        labels=None if labels is None else np.array([label or 0 for label in labels], np.int64),
        padding=reader.padding,
    )
    return Encoded(
        examples=examples, blank=MappingProxyType({reason: tuple(found) for reason, found in why.items()})
    )


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


def judged(found: Any, reader: Reader) -> tuple[str | None, _Row]:
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
