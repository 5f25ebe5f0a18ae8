"""Long texts as windows of tokens: so many a document at most, and the document is the example."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import offsets_of
from tasks.data.grouped_examples import GroupedExamples
from tasks.data.rows import NO_CONTENT, NO_LABEL
from tasks.data.token_examples import TokenExamples
from tasks.data.tokenization import FAILED, TOO_SHORT, Reader, judged
from tasks.task import Encoded


def tokenize_documents(
    reader: Reader, *, texts: Sequence[str | None], labels: Sequence[int | None]
) -> Encoded:
    """Cut texts to windows of what a reader takes, ``reader.windows`` of them in each example.

    The rows' ``targets``, [n · windows, 1], are 1 for a window and 0 for a place that a shorter text leaves
    empty, which is filled up with padding; a text beyond its last window is not read. A total function, as
    ``tokenize`` is.
    """
    empty = np.full(max(2, reader.least), reader.padding, np.int32)
    rows: list[NDArray[np.int32]] = []
    there: list[float] = []
    why: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        reason, kept = _cut(reader, text or "")
        if text is None:
            reason = NO_CONTENT
        elif labels[place] is None:
            reason = NO_LABEL
        if reason is not None:
            why.setdefault(reason, []).append(place)
            rows += [empty[:0]] * reader.windows
            there += [0.0] * reader.windows
        else:
            left = reader.windows - len(kept)
            rows += [*kept, *[empty] * left]
            there += [1.0] * len(kept) + [0.0] * left
    windows = TokenExamples(
        tokens=np.concatenate([empty[:0], *rows]),
        offsets=offsets_of(np.array([len(row) for row in rows], np.int64)),
        labels=np.repeat(np.array([label or 0 for label in labels], np.int64), reader.windows),
        padding=reader.padding,
        targets=np.array(there, np.float32).reshape(-1, 1),
    )
    return Encoded(
        examples=GroupedExamples(rows=windows, together=reader.windows),
        blank=MappingProxyType({reason: tuple(found) for reason, found in why.items()}),
    )


def _cut(reader: Reader, text: str) -> tuple[str | None, list[NDArray[np.int32]]]:
    """Why a text cannot be used, None if it can, and its windows; one that is too short ends it."""
    rows: list[NDArray[np.int32]] = []
    for found in _windows_of(reader, text)[: reader.windows]:
        reason, row = judged(found, reader)
        if reason == TOO_SHORT and rows:
            break
        if reason is not None:
            return reason, []
        rows.append(row)
    return (None, rows) if rows else (FAILED, [])


def _windows_of(reader: Reader, text: str) -> list[Any]:
    """The tokenizer's rows; none for a text on which it fails."""
    try:
        return list(
            reader.tokenizer(
                text,
                truncation=True,
                max_length=reader.max_length,
                return_overflowing_tokens=True,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        )
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:  # what Rust panics with is no Exception
        return []
