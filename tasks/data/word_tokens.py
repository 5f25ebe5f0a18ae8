"""Words with a label each, as tokens: a word's label is that of its first token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import offsets_of
from tasks.data.rows import NO_CONTENT, NO_LABEL
from tasks.data.token_examples import UNTOLD, TokenExamples
from tasks.data.tokenization import FAILED, Reader, judged
from tasks.task import Encoded

NO_WORD = "no word with a label among the tokens"


def words_in(cell: str | None) -> tuple[str, ...] | None:
    """The words of a cell, or their labels: a JSON list of texts or whole numbers, or what spaces part.

    None where there is none, or a list that holds something else, an empty word or one with a space in it.

    >>> words_in("a  b"), words_in('["a", "b"]'), words_in("[1, 2]"), words_in('["a b"]')
    (('a', 'b'), ('a', 'b'), ('1', '2'), None)
    """
    found: Any = (cell or "").split()
    if cell is not None and cell.lstrip().startswith("[") and cell.rstrip().endswith("]"):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            pass  # words may begin and end with brackets
        else:
            whole = isinstance(found, list) and all(type(word) in {str, int} for word in found)
            found = list(map(str, found)) if whole else []
    return tuple(found) if found and all([word] == word.split() for word in found) else None


def tokenize_words(
    reader: Reader,
    *,
    documents: Sequence[tuple[str, ...] | None],
    labels: Sequence[Sequence[int] | None],
) -> Encoded:
    """Tokenize words as the text that they make with spaces between them, each with its label's number.

    A total function, as ``tokenize`` is: None for a document, or for its labels, makes it blank. Words
    beyond what the reader takes have no place.
    """
    rows: list[NDArray[np.int32]] = []
    told: list[NDArray[np.int64]] = []
    why: dict[str, list[int]] = {}
    nothing = np.zeros(0, np.int32), np.zeros(0, np.int64)
    for place, (words, numbers) in enumerate(zip(documents, labels, strict=True)):
        reason, row, own = _encode(reader, words or (), numbers or ())
        if words is None:
            reason = NO_CONTENT
        elif numbers is None:
            reason = NO_LABEL
        if reason is not None:
            why.setdefault(reason, []).append(place)
            row, own = nothing
        rows.append(row)
        told.append(own)
    examples = TokenExamples(
        tokens=np.concatenate([nothing[0], *rows]),
        offsets=offsets_of(np.array([len(row) for row in rows], np.int64)),
        labels=None,
        padding=reader.padding,
        token_labels=np.concatenate([nothing[1], *told]),
    )
    return Encoded(examples=examples, blank={reason: tuple(found) for reason, found in why.items()})


def _encode(
    reader: Reader, words: Sequence[str], numbers: Sequence[int]
) -> tuple[str | None, NDArray[np.int32], NDArray[np.int64]]:
    """Why words cannot be used, None if they can, their tokens, and each token's label."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    found, offsets = _tokens_of(reader, " ".join(words))
    reason, row = judged(found, reader)
    own = np.full(len(row), UNTOLD, np.int64)
    if reason is None:
        try:
            place = 0
            for (begin, end), number in zip(spans, numbers, strict=False):
                # A token of no width, such as a first one for the whole text, is no word's.
                while place < len(row) and _is_before(offsets[place], begin):
                    place += 1
                if place < len(row) and offsets[place][0] < end:
                    own[place] = number
                    place += 1
        except (TypeError, IndexError, ValueError):
            reason = FAILED
    if reason is None and not (own != UNTOLD).any():
        reason = NO_WORD
    return reason, row, own


def _is_before(span: tuple[int, int], begin: int) -> bool:
    return span[1] <= begin or span[0] == span[1]


def _tokens_of(reader: Reader, text: str) -> tuple[Any, Any]:
    """The tokenizer's row, and where in the text each token is; None for a text on which it fails."""
    try:
        told = reader.tokenizer(
            text,
            truncation=True,
            max_length=reader.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
        )
        return told["input_ids"], told["offset_mapping"]
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:  # what Rust panics with is no Exception
        return None, ()
