"""What A and B begin as: decompositions that agree with whole ones, and with themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ModelError
from tasks.model.adapter_start import olora, orthonormal_rows, pissa, singular_factors

shapes = given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    rank=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
)
few = settings(max_examples=40, deadline=None)


def weight(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns))


@few
@shapes
def test_factors_are_orthonormal_and_as_good_as_a_whole_decomposition(
    rows: int, columns: int, rank: int, seed: int
) -> None:
    rank, matrix = min(rank, rows, columns), weight(rows, columns, seed)
    left, values, right = singular_factors(matrix, rank)
    np.testing.assert_allclose(left.T @ left, np.eye(rank), atol=1e-10)
    np.testing.assert_allclose(right @ right.T, np.eye(rank), atol=1e-10)
    whole = np.linalg.svd(matrix, compute_uv=False)
    # The best error at this rank, but for what 16 passes leave where values lie close (Halko et al. 2011).
    best, found = np.sqrt((whole[rank:] ** 2).sum()), np.linalg.norm(matrix - (left * values) @ right)
    assert best - 1e-9 <= found <= 1.01 * best + 1e-9
    assert (left[np.abs(left).argmax(axis=0), np.arange(rank)] > 0).all()


@few
@shapes
def test_rounding_of_another_machine_moves_what_is_taken_out_by_rounding(
    rows: int, columns: int, rank: int, seed: int
) -> None:
    """Sums in another order move the last bits: as if the weight's had been others."""
    rank, matrix = min(rank, rows, columns), weight(rows, columns, seed)
    other = matrix * (1 + 2.0**-52 * np.random.default_rng(seed + 1).standard_normal(matrix.shape))
    for start in (lambda m: pissa(m, rank, 0.5, "l"), lambda m: olora(m, rank, "l")):
        try:
            (first, last), (first_there, last_there) = start(matrix), start(other)
        except ModelError:
            continue
        off = np.abs(last @ first - last_there @ first_there).max()
        assert off <= 1e-7 * np.abs(matrix).max()  # float32 has 6e-8 a rounding


def test_equal_singular_values_are_refused_where_it_matters_which_are_taken() -> None:
    values = np.diag([3.0, 2.0, 2.0, 1.0, 0.0, 0.0])
    for rank in (1, 3, 4, 5):  # of two zeros either will do
        first, last = pissa(values, rank, 1.0, "l")
        np.testing.assert_allclose(np.diag(last @ first)[:rank], np.diag(values)[:rank], atol=1e-9)
    with pytest.raises(ModelError, match="the weight of l has equal singular values at rank 2"):
        pissa(values, 2, 1.0, "l")


@few
@shapes
def test_pissa_is_the_best_part_and_olora_the_first_columns(
    rows: int, columns: int, rank: int, seed: int
) -> None:
    rank, matrix = min(rank, rows, columns), weight(rows, columns, seed)
    first, last = pissa(matrix, rank, 0.25, "l")
    whole = np.linalg.svd(matrix, compute_uv=False)
    best, found = np.sqrt((whole[rank:] ** 2).sum()), np.linalg.norm(matrix - 0.25 * last @ first)
    assert best - 1e-9 <= found <= 1.01 * best + 1e-9
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), np.linalg.norm(last, axis=0), atol=1e-9)
    try:
        first, last = olora(matrix, rank, "l")
    except ModelError:
        return
    np.testing.assert_allclose(last.T @ last, np.eye(rank), atol=1e-9)
    np.testing.assert_allclose((last @ first)[:, :rank], matrix[:, :rank], atol=1e-9)


def test_dependent_columns_are_refused() -> None:
    matrix = weight(6, 6, 0)
    matrix[:, 2] = matrix[:, 0] - matrix[:, 1]
    olora(matrix, 2, "l")
    with pytest.raises(ModelError, match=r'the first 3 columns of the weight of l depend.*use "pissa"'):
        olora(matrix, 3, "l")
    with pytest.raises(ModelError, match="depend on one another"):
        olora(np.zeros((4, 4)), 1, "l")


def test_drawn_rows_are_orthonormal() -> None:
    rows = orthonormal_rows(3, 7, np.random.Generator(np.random.PCG64(1)))
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-12)
