"""Flower's own arithmetic against malicious sites: functions of its strategies, given arrays.

They are not documented to last; ``test_flower_contract.py`` tries what is assumed of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray


def select_krum(points: Sequence[NDArray[np.float64]], *, malicious: int, count: int) -> list[int]:
    """The numbers of the points, float64[d] each, that Flower's (multi-)Krum keeps, best first."""
    from flwr.serverapp.strategy.multikrum import select_multikrum

    contents = [RecordDict({"arrays": ArrayRecord({"point": Array(point)})}) for point in points]
    numbers = {id(content): number for number, content in enumerate(contents)}
    return [numbers[id(content)] for content in select_multikrum(contents, malicious, count)]


def trimmed_mean(vectors: NDArray[np.float32], *, share: float) -> NDArray[Any]:
    """Flower's mean of each number without such a share of the lowest and of the highest: [d] of [n, d]."""
    from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

    found: NDArray[Any] = trim_mean(vectors, share)
    return found


def closest_mean(
    vectors: NDArray[np.float32], *, to: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Flower's mean of the ``count`` numbers of float32[n, d] next to those of ``to``: float32[d]."""
    from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights

    found: NDArray[np.float32] = aggregate_n_closest_weights([to], [[one] for one in vectors], count)[0]
    return found
