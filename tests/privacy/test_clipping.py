"""A clipped value is never over the bound that it carries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from privacy.clipping import Clipped, ClippedIntegers, clip, clip_gradients, clip_rows
from privacy.errors import PrivacyUnitError

# What the docstrings promise: rounding in sums of float64 and of float32.
ROUNDING64, ROUNDING32 = 1e-12, 1e-5

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


def whole(tensors: tuple[torch.Tensor, ...]) -> NDArray[np.float64]:
    return torch.cat([tensor.flatten() for tensor in tensors]).double().numpy()


# Refused.


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan"), 1e-13, 1e13])
def test_a_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    for make in (
        lambda: clip(np.ones(3), bound=bound, norm=2),
        lambda: clip_gradients([torch.ones(2, 3)], bound=bound, norm=1),
        lambda: Clipped(value=np.ones(3), bound=bound, norm=2),
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

    assert (found.bound, found.norm) == (bound, norm)
    assert length(found.value, norm) <= bound * (1 + ROUNDING64)
    assert found.zeroed == (not np.isfinite(vector).all())
    if found.zeroed:
        assert not found.value.any()


@given(vector=arrays(np.float64, 5, elements=st.floats(-1e300, 1e300)), bound=BOUNDS, norm=NORMS)
def test_a_long_vector_keeps_its_direction_and_a_short_one_everything(
    vector: NDArray, bound: float, norm: int
) -> None:
    found = clip(vector, bound=bound, norm=norm).value

    if length(vector, norm) <= bound * (1 - ROUNDING64):
        assert np.array_equal(found, vector)
    else:
        assert length(found, norm) == pytest.approx(bound, rel=ROUNDING64)
        np.testing.assert_allclose(direction(found), direction(vector), atol=ROUNDING64)


@given(rows=ROWS64, bound=BOUNDS, norm=NORMS)
def test_a_sum_of_rows_is_that_of_its_clipped_vectors(rows: NDArray, bound: float, norm: int) -> None:
    found = clip_rows(rows, bound=bound, norm=norm)

    alone = [clip(row, bound=bound, norm=norm) for row in rows]
    expected = np.sum([one.value for one in alone], axis=0) if alone else np.zeros(rows.shape[1])
    np.testing.assert_allclose(found.value, expected, atol=bound * ROUNDING64)
    assert found.zeroed == sum(one.zeroed for one in alone)


# Per-example gradients.


@settings(deadline=None)
@given(rows=ROWS32, bound=BOUNDS, norm=NORMS)
def test_no_example_exceeds_the_bound(rows: NDArray, bound: float, norm: int) -> None:
    finite = np.isfinite(rows).all(axis=1)
    for index, row in enumerate(rows):
        found = clip_gradients(in_two(rows[index : index + 1]), bound=bound, norm=norm)
        moved = whole(found.tensors)
        assert length(moved, norm) <= bound * (1 + ROUNDING32)
        assert found.zeroed == (not finite[index])
        if found.zeroed:
            assert not moved.any()
        elif length(row, norm) <= bound * (1 - ROUNDING32):
            assert np.array_equal(moved, row)
        else:
            assert length(moved, norm) == pytest.approx(bound, rel=ROUNDING32)
            np.testing.assert_allclose(direction(moved), direction(row), atol=ROUNDING32)


@settings(deadline=None)
@given(rows=ROWS32, bound=BOUNDS, norm=NORMS, cut=st.integers(0, 5))
def test_sums_of_parts_join_to_the_sum(rows: NDArray, bound: float, norm: int, cut: int) -> None:
    found = clip_gradients(in_two(rows), bound=bound, norm=norm)

    joined = clip_gradients(in_two(rows[:cut]), bound=bound, norm=norm).joined(
        clip_gradients(in_two(rows[cut:]), bound=bound, norm=norm)
    )

    assert found.zeroed == joined.zeroed == int((~np.isfinite(rows).all(axis=1)).sum())
    assert (joined.bound, joined.norm) == (bound, norm)
    # At most five numbers of at most the bound, added in another order in float32.
    np.testing.assert_allclose(
        whole(joined.tensors), whole(found.tensors), atol=5 * bound * ROUNDING32, rtol=0
    )


def test_an_empty_batch_is_a_sum_of_nothing() -> None:
    found = clip_gradients([torch.zeros(0, 4, 3), torch.zeros(0, 5)], bound=1.0, norm=2)

    assert [tuple(tensor.shape) for tensor in found.tensors] == [(4, 3), (5,)]
    assert not whole(found.tensors).any()
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
    (found,) = clip_gradients([row], bound=1.0, norm=norm).tensors
    assert length(found.numpy(), norm) == pytest.approx(1.0, rel=ROUNDING32)

    naive = float(torch.linalg.vector_norm(row, norm, dim=1))
    assert naive != pytest.approx(length(row.numpy(), norm), rel=10 * ROUNDING32)


def test_half_precision_norms_would_break_the_bound() -> None:
    rows = torch.randn(40, 2000, generator=torch.Generator().manual_seed(0)).bfloat16()
    ours, naive = [], []
    for row in rows:
        (found,) = clip_gradients([row[None]], bound=1.0, norm=2).tensors
        ours.append(length(found.numpy(), 2))
        naive.append(length(row.float().numpy(), 2) / float(row.norm()))
    assert max(ours) <= 1 + ROUNDING32
    assert max(naive) > 1 + 100 * ROUNDING32
