"""Rows as dense examples: arrays of one row each, with the number of its label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.dense_examples import DenseExamples
from tasks.data.rows import NO_CONTENT, NO_LABEL, Rows
from tasks.task import Encoded


def encode_labelled(arrays: Mapping[str, NDArray[Any]], rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
    """The rows' ``arrays`` by the input's name, [n, …], as examples.

    Blank are rows without content and, if there are ``labels``, those that have none of them.
    """
    known = {label: number for number, label in enumerate(labels)}
    numbers = [known.get(label or "", -1) for label in rows.labels or ()] if labels else [0] * len(rows)
    found = np.array(numbers, np.int64)
    empty = np.array([content is None for content in rows.contents], bool)
    odd = ~empty & (found < 0)
    blank = {NO_CONTENT: empty, NO_LABEL: odd}
    return Encoded(
        examples=DenseExamples(arrays=arrays, labels=found.clip(0) if labels else None, blank=empty | odd),
        blank={why: tuple(map(int, np.flatnonzero(at))) for why, at in blank.items() if at.any()},
    )
