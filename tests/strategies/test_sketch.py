"""Two-sided sketches: sums of them give products of low rank back, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.sketch import SketchSize

few = settings(max_examples=60, deadline=None)


@few
@given(
    rank=st.integers(1, 3),
    weights=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    more=st.integers(0, 4),
    rows=st.integers(1, 80),
    columns=st.integers(1, 80),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_weighted_sum_of_sketches_gives_the_sum_of_products_back(
    rank: int, weights: list[int], more: int, rows: int, columns: int, seed: int
) -> None:
    """Exactly, for a sketch of at least the sum's rank, which is at most that of all products together."""
    generator = np.random.default_rng(seed)
    drawn = SketchSize(rows=rows, columns=columns, size=rank * len(weights) + more).drawn(seed)
    shares = np.array(weights) / sum(weights)
    lefts = [generator.standard_normal((rows, rank)) for _ in weights]
    rights = [generator.standard_normal((rank, columns)) for _ in weights]
    sent = [drawn.of(left, right) for left, right in zip(lefts, rights, strict=True)]
    assert all(vector.shape == (drawn.form.numbers,) for vector in sent)
    q, x = drawn.factors(sum(share * vector for share, vector in zip(shares, sent, strict=True)))
    wanted = sum(p * left @ right for p, left, right in zip(shares, lefts, rights, strict=True))
    # A rounding of 2^-53 grows by how oblique the mixtures of a square Ω are: 10^6 is beyond chance.
    np.testing.assert_allclose(q @ x, wanted, atol=1e-9 * max(1.0, np.abs(wanted).max()))
    np.testing.assert_allclose(q.T @ q, np.eye(q.shape[1]), atol=1e-12)


def test_of_a_higher_rank_something_is_lost() -> None:
    generator = np.random.default_rng(0)
    drawn = SketchSize(rows=60, columns=60, size=5).drawn(0)
    whole = generator.standard_normal((60, 6)) @ generator.standard_normal((6, 60))
    q, x = drawn.factors(drawn.of(whole, np.eye(60)))
    assert np.linalg.norm(q @ x - whole) > 0.01 * np.linalg.norm(whole)


def test_a_falling_spectrum_is_met_within_the_bound() -> None:
    """The mean of squared errors over seeds, against four times the best of rank 3, for sketches of 7."""
    generator = np.random.default_rng(1)
    left, right = (np.linalg.qr(generator.standard_normal((60, 60)))[0] for _ in range(2))
    values = 2.0 ** -np.arange(60)
    errors = []
    for seed in range(40):
        drawn = SketchSize(rows=60, columns=60, size=7).drawn(seed)
        q, x = drawn.factors(drawn.of(left * values, right))
        errors.append(np.square(q @ x - (left * values) @ right).sum())
    assert np.mean(errors) <= 4 * np.square(values[3:]).sum()


@pytest.mark.parametrize(
    ("rows", "columns", "size", "numbers", "whole"),
    [(384, 384, 9, 9 * 384 + 19 * 384, False), (10, 9, 3, 90, True), (1000, 4, 5, 4000, True)],
)
def test_it_is_never_longer_than_the_matrix(
    rows: int, columns: int, size: int, numbers: int, whole: bool
) -> None:
    form = SketchSize(rows=rows, columns=columns, size=size)
    assert (form.numbers, form.whole) == (numbers, whole)


def test_mixtures_are_the_same_on_every_machine_and_others_with_another_seed() -> None:
    drawn = SketchSize(rows=60, columns=50, size=2).drawn(7)
    # By hand from NumPy's PCG64: 24 random bits each, less a half, times √(12 / 2).
    first = np.random.Generator(np.random.PCG64(7)).random(2, np.float32)
    np.testing.assert_array_equal(drawn.omega[0], (first.astype(float) - 0.5) * np.sqrt(6.0))
    assert drawn.omega[0].tolist() == pytest.approx([1.089790046477629, 0.30641996539446253], abs=1e-12)
    assert (drawn.omega.shape, drawn.psi.shape) == ((50, 2), (5, 60))
    other = SketchSize(rows=60, columns=50, size=2).drawn(8)
    assert np.abs(other.omega - drawn.omega).max() > 0.5
