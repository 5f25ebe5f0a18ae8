"""The mean of updates that come one after another."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ProtocolError
from strategies import averaging
from strategies.averaging import RunningMean

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
# So little and so much at once that no float64 holds their sum.
APART = st.sampled_from([2.0**-149, -(2.0**-149), 2.0**-60, 1.0, 3.0, -1.0, 2.0**90, -(2.0**90), 2.0**127])


def mean_of(updates: Iterable[np.ndarray], size: int) -> np.ndarray:
    running = RunningMean(size)
    for update in updates:
        running.add(update)
    return running.mean()


def rounded_once(column: list[float]) -> np.float32:
    """The sum without any rounding, then as a float64, divided, and as a float32."""
    return np.float32(float(sum(map(Fraction, column), Fraction(0))) / len(column))


@given(st.lists(st.one_of(FLOATS, APART), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_sum_is_exact_in_whatever_order(column: list[float], random: object) -> None:
    expected = rounded_once(column)
    for _ in range(3):
        random.shuffle(column)
        found = mean_of([np.array([0.5, number], np.float32) for number in column], 2)
        assert found.tobytes() == np.array([0.5, expected], np.float32).tobytes()


def test_it_is_numpys_where_that_is_exact() -> None:
    """Normal numbers: of 60, none is so small beside another that a float64 loses its last bit.

    That takes a factor of 2^29, which one of a million such numbers meets with a chance of 2^-9.
    """
    generator = np.random.default_rng(0)
    updates = generator.standard_normal((60, 20_000)).astype(np.float32)
    expected = updates.mean(axis=0, dtype=np.float64).astype(np.float32)
    for order in (range(60), range(59, -1, -1), generator.permutation(60)):
        assert mean_of((updates[site] for site in order), 20_000).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 23])
def test_blocks_are_all_added(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(averaging, "_BLOCK", 8)
    updates = [np.arange(size, dtype=np.float32) * factor for factor in (1, 2.0**70, -(2.0**70), 2.0**-40)]
    expected = [rounded_once([float(update[place]) for update in updates]) for place in range(size)]
    assert mean_of(updates, size).tobytes() == np.array(expected, np.float32).tobytes()


def test_what_was_added_is_not_kept() -> None:
    """An update may be changed, or given back, once it was added."""
    running, update = RunningMean(3), np.ones(3, np.float32)
    running.add(update)
    update[:] = 5.0
    running.add(update)
    assert running.mean().tolist() == [3.0, 3.0, 3.0]


def test_mean_of_nothing_or_of_different_sizes_is_refused() -> None:
    with pytest.raises(ProtocolError, match="at least one"):
        RunningMean(3).mean()
    with pytest.raises(ProtocolError, match="updates of 3 numbers"):
        RunningMean(3).add(np.zeros(2, np.float32))
