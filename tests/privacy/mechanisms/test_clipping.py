"""A clipped value is never over the bound that it carries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import (
    STEPS,
    Clipped,
    ClippedIntegers,
    ClippedSum,
    clip,
    clip_gradients,
    clip_rows,
)

# A number loses less than a step, and a unit near the bound 2^-20 of its length.
SHORTER = 1.01 * 2.0**-20

NORMS = st.sampled_from([1, 2])
BOUNDS = st.floats(1e-6, 1e6)
ANY64 = st.floats(width=64, allow_nan=True, allow_infinity=True)
ANY32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
ROWS64 = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6), elements=ANY64)
ROWS32 = arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(2, 8)),
    elements=ANY32,
)


def length(vector: NDArray, norm: int) -> float:
    """The norm, of numbers near 1 so that no square overflows or vanishes."""
    vector = np.asarray(vector, np.float64)
    largest = np.abs(vector).max(initial=0.0)
    return float(largest * np.linalg.norm(vector / largest, norm)) if largest else 0.0


def direction(vector: NDArray) -> NDArray[np.float64]:
    vector = np.asarray(vector, np.float64)
    return vector / np.abs(vector).max()


def in_two(rows: NDArray[np.float32]) -> list[torch.Tensor]:
    """The rows as gradients of two parameters: of one number, and of the others."""
    return [torch.from_numpy(rows[:, :1].copy()), torch.from_numpy(rows[:, 1:].copy())]


def whole(clipped: ClippedSum) -> NDArray[np.int64]:
    return torch.cat([tensor.flatten() for tensor in clipped.tensors]).numpy()


def within(vector: NDArray[np.int64], norm: int) -> bool:
    """Whether integers are no longer than the bound, in numbers of any size: no rounding in it."""
    numbers = [abs(int(number)) for number in vector]
    return sum(numbers) <= STEPS if norm == 1 else sum(n * n for n in numbers) <= STEPS**2


def close(found: NDArray[np.int64], vector: NDArray, *, bound: float, norm: int) -> bool:
    """Whether the integers are a finite vector, clipped to the bound, but for what that may lose."""
    factor = min(1.0, bound / length(vector, norm)) if length(vector, norm) else 1.0
    expected = np.asarray(vector, np.float64) * factor * (STEPS / bound)
    allowed = 1 + SHORTER * np.abs(expected) if factor < 1 + SHORTER else 1
    return bool(
        (np.abs(found - expected) <= allowed).all() and (np.abs(found) <= np.abs(expected) + 1).all()
    )


# Refused.


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan"), 1e-13, 1e13])
def test_a_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    for make in (
        lambda: clip(np.ones(3), bound=bound, norm=2),
        lambda: clip_gradients([torch.ones(2, 3)], bound=bound, norm=1),
        lambda: Clipped(value=np.ones(3, np.int64), bound=bound, norm=2),
        lambda: ClippedIntegers(value=np.zeros(3, np.int64), bound=bound),
    ):
        with pytest.raises(PrivacyUnitError, match="clipped sum, got bound="):
            make()


@pytest.mark.parametrize("norm", [0, 3, -1])
def test_other_norms_are_refused(norm: int) -> None:
    with pytest.raises(PrivacyUnitError, match=f"norm={norm}"):
        clip(np.ones(3), bound=1.0, norm=norm)
    with pytest.raises(PrivacyUnitError, match=f"norm={norm}"):
        clip_gradients([torch.ones(2, 3)], bound=1.0, norm=norm)


def test_more_than_one_vector_a_unit_is_refused() -> None:
    with pytest.raises(PrivacyUnitError, match="one vector a unit"):
        clip(np.ones((2, 3)), bound=1.0, norm=2)


def test_tensors_that_disagree_on_the_batch_are_refused() -> None:
    with pytest.raises(PrivacyUnitError, match="different batch sizes"):
        clip_gradients([torch.ones(2, 3), torch.ones(3, 3)], bound=1.0, norm=2)


def test_sums_that_were_clipped_otherwise_do_not_join() -> None:
    one = clip_gradients([torch.ones(2, 3)], bound=1.0, norm=2)
    for other in (
        clip_gradients([torch.ones(2, 3)], bound=2.0, norm=2),
        clip_gradients([torch.ones(2, 3)], bound=1.0, norm=1),
    ):
        with pytest.raises(PrivacyUnitError, match="clipped alike"):
            one.joined(other)


def test_integers_over_their_bound_are_refused() -> None:
    assert ClippedIntegers(value=np.array([3, -4]), bound=5.0).l1_bound == pytest.approx(5 * np.sqrt(2))
    assert ClippedIntegers(value=np.array([1, 0, 0, 0]), bound=1.0).l1_bound == 1.0
    for value, named in [
        (np.array([3, -4]), "norm=5.0"),
        (np.array([2**62, 2**62]), "norm="),
        (np.array([1.0, 0.0]), "float64"),
        (np.array([[1, 0]]), r"shape \(1, 2\)"),
    ]:
        with pytest.raises(PrivacyUnitError, match=named):
            ClippedIntegers(value=value, bound=4.99)


# One vector.


@given(vector=arrays(np.float64, st.integers(0, 8), elements=ANY64), bound=BOUNDS, norm=NORMS)
def test_the_bound_is_never_exceeded(vector: NDArray, bound: float, norm: int) -> None:
    found = clip(vector, bound=bound, norm=norm)

    assert (found.bound, found.norm, found.steps) == (bound, norm, STEPS)
    assert found.value.dtype == np.int64
    assert within(found.value, norm)
    assert found.zeroed == (not np.isfinite(vector).all())
    if found.zeroed:
        assert not found.value.any()


@given(vector=arrays(np.float64, 5, elements=st.floats(-1e300, 1e300)), bound=BOUNDS, norm=NORMS)
def test_a_long_vector_keeps_its_direction_and_a_short_one_everything(
    vector: NDArray, bound: float, norm: int
) -> None:
    assert close(clip(vector, bound=bound, norm=norm).value, vector, bound=bound, norm=norm)


@given(rows=ROWS64, bound=BOUNDS, norm=NORMS)
def test_a_sum_of_rows_is_that_of_its_clipped_vectors(rows: NDArray, bound: float, norm: int) -> None:
    found = clip_rows(rows, bound=bound, norm=norm)

    alone = [clip(row, bound=bound, norm=norm) for row in rows]
    expected = np.sum([one.value for one in alone], axis=0) if alone else np.zeros(rows.shape[1])
    assert np.array_equal(found.value, expected)
    assert found.zeroed == sum(one.zeroed for one in alone)


# Per-example gradients.


@settings(deadline=None)
@given(rows=ROWS32, bound=BOUNDS, norm=NORMS)
def test_no_example_exceeds_the_bound(rows: NDArray, bound: float, norm: int) -> None:
    finite = np.isfinite(rows).all(axis=1)
    for index, row in enumerate(rows):
        found = clip_gradients(in_two(rows[index : index + 1]), bound=bound, norm=norm)
        moved = whole(found)
        assert within(moved, norm)
        assert found.zeroed == (not finite[index])
        if found.zeroed:
            assert not moved.any()
        else:
            assert close(moved, row, bound=bound, norm=norm)


@settings(deadline=None)
@given(rows=ROWS32, bound=BOUNDS, norm=NORMS, cut=st.integers(0, 5), order=st.randoms())
def test_an_example_adds_the_same_whoever_else_is_there(
    rows: NDArray, bound: float, norm: int, cut: int, order
) -> None:
    """To the last bit: alone, in any order, in parts, or beside others."""
    found = clip_gradients(in_two(rows), bound=bound, norm=norm)

    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    parts = [rows[shuffled[:cut]], rows[shuffled[cut:]]]
    joined = clip_gradients(in_two(parts[0]), bound=bound, norm=norm).joined(
        clip_gradients(in_two(parts[1]), bound=bound, norm=norm)
    )

    assert found.zeroed == joined.zeroed == int((~np.isfinite(rows).all(axis=1)).sum())
    assert (joined.bound, joined.norm) == (bound, norm)
    assert np.array_equal(whole(joined), whole(found))


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_examples_add_the_same_in_batches_of_any_shape(norm: int, dtype: torch.dtype) -> None:
    """Where a library's sums would choose another order, as they do at these widths."""
    rows = torch.randn(23, 4099, generator=torch.Generator().manual_seed(0)).to(dtype)
    alone = [whole(clip_gradients([row[None]], bound=1.0, norm=norm)) for row in rows]
    for size in (2, 3, 7, 8, 16, 23):
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        sums = [whole(clip_gradients([batch], bound=1.0, norm=norm)) for batch in batches]
        expected = [sum(alone[start : start + size]) for start in range(0, len(rows), size)]
        assert all(np.array_equal(one, other) for one, other in zip(sums, expected, strict=True))


def test_an_empty_batch_is_a_sum_of_nothing() -> None:
    found = clip_gradients([torch.zeros(0, 4, 3), torch.zeros(0, 5)], bound=1.0, norm=2)

    assert [tuple(tensor.shape) for tensor in found.tensors] == [(4, 3), (5,)]
    assert not whole(found).any()
    assert found.zeroed == 0
    assert found.sizes == (12, 5)


def test_gradients_are_left_as_they_were() -> None:
    gradients = [torch.full((2, 3), 7.0)]
    clip_gradients(gradients, bound=1.0, norm=2)
    assert torch.equal(gradients[0], torch.full((2, 3), 7.0))


@pytest.mark.parametrize("norm", [1, 2])
def test_a_million_equal_numbers_stay_under_the_bound(norm: int) -> None:
    """Sums that run in a line round each time in the same direction; torch's own norm does."""
    row = torch.full((1, 1_000_000), 0.1234567)
    found = whole(clip_gradients([row], bound=1.0, norm=norm))
    assert within(found, norm)
    assert length(found, norm) / STEPS == pytest.approx(1.0, rel=1e-5)

    naive = float(torch.linalg.vector_norm(row, norm, dim=1))
    assert naive != pytest.approx(length(row.numpy(), norm), rel=1e-4)


def test_half_precision_norms_would_break_the_bound() -> None:
    rows = torch.randn(40, 2000, generator=torch.Generator().manual_seed(0)).bfloat16()
    for row in rows:
        assert within(whole(clip_gradients([row[None]], bound=1.0, norm=2)), 2)
    naive = [length(row.float().numpy(), 2) / float(row.norm()) for row in rows]
    assert max(naive) > 1 + 1e-3


def test_numbers_at_the_ends_of_float32_are_clipped_like_others() -> None:
    """Their squares are inside float64's range; a vanishing one stays a part of a step."""
    for row in (torch.full((1, 3), 3e38), torch.tensor([[3e38, 1e-45, 0.0]])):
        for norm in (1, 2):
            found = whole(clip_gradients([row], bound=1.0, norm=norm))
            assert within(found, norm)
            assert length(found, norm) / STEPS == pytest.approx(1.0, rel=2.0**-19)
    tiny = clip_gradients([torch.full((1, 3), 1e-45)], bound=1.0, norm=2)
    assert not whole(tiny).any()
    assert tiny.zeroed == 0
