"""The rotation: orthonormal for every length, its own undoing, and no coordinate stands out."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import hadamard

from privacy.errors import ProtocolError
from privacy.secagg.hadamard import block_size, rotate, rotate_back

SEED = bytes(range(32))
# The docstring's bound on the rounding, of a vector's norm.
ROUNDING = 2.0**-47


def matrix(dimension: int, seed: bytes = SEED) -> NDArray[np.float64]:
    return np.array([rotate(row, seed) for row in np.eye(dimension)]).reshape(dimension, dimension).T


def seed_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


# Refused.


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_seeds_of_other_sizes_are_refused(size: int) -> None:
    for turn in (rotate, rotate_back):
        with pytest.raises(ProtocolError, match=f"32 bytes, got {size}"):
            turn(np.ones(3), bytes(size))


def test_more_than_one_vector_is_refused() -> None:
    for turn in (rotate, rotate_back):
        with pytest.raises(ProtocolError, match=r"shape=\(2, 3\)"):
            turn(np.ones((2, 3)), SEED)


# A rotation.


@pytest.mark.parametrize("dimension", range(71))
def test_it_is_orthonormal_and_undone_by_its_inverse(dimension: int) -> None:
    turn = matrix(dimension)
    # Each column is off by 2^-47 at most, and a product of two by twice that.
    np.testing.assert_allclose(turn.T @ turn, np.eye(dimension), atol=3 * ROUNDING)
    vector = np.random.default_rng(dimension).standard_normal(dimension).astype(np.float32)
    turned = rotate(vector, SEED)
    assert (turned.dtype, turned.shape) == (np.float64, (dimension,))
    back = rotate_back(turned, SEED)
    assert np.linalg.norm(back - vector) <= 2 * ROUNDING * np.linalg.norm(vector)
    assert np.linalg.norm(rotate(back, SEED) - turned) <= 3 * ROUNDING * np.linalg.norm(vector)


@pytest.mark.parametrize("dimension", [1000, 2**14 - 1, 2**14, 2**14 + 1, 300_001])
def test_long_vectors_keep_their_norm_and_come_back(dimension: int) -> None:
    vector = np.random.default_rng(0).standard_normal(dimension)
    norm = float(np.sqrt(np.sum(vector.astype(np.longdouble) ** 2)))
    turned = rotate(vector, SEED)
    found = float(np.sqrt(np.sum(turned.astype(np.longdouble) ** 2)))
    assert abs(found - norm) <= 2 * ROUNDING * norm
    assert np.linalg.norm(rotate_back(turned, SEED) - vector) <= 2 * ROUNDING * norm


@settings(max_examples=50)
@given(dimension=st.integers(1, 40), number=st.integers(0, 2**256 - 1))
def test_it_is_what_its_docstring_says(dimension: int, number: int) -> None:
    """Another reading of it: scipy's matrix, bits one by one."""
    seed = seed_of(number)
    block = block_size(dimension)
    key = hashlib.sha256(b"confide rotation 1" + seed).digest()
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(16))
    bits = [stream[index // 8] >> (index % 8) & 1 for index in range(2 * block)]
    signs = [-1.0 if bit else 1.0 for bit in bits]
    first, last = np.eye(dimension), np.eye(dimension)
    first[:block, :block] = hadamard(block) / np.sqrt(block) @ np.diag(signs[:block])
    last[-block:, -block:] = hadamard(block) / np.sqrt(block) @ np.diag(signs[block:])
    np.testing.assert_allclose(matrix(dimension, seed), last @ first, atol=2 * ROUNDING)


def test_a_vector_is_left_as_it_was() -> None:
    vector = np.arange(12.0)
    rotate(vector, SEED)
    rotate_back(vector, SEED)
    assert np.array_equal(vector, np.arange(12.0))


def test_block_is_the_largest_power_of_two() -> None:
    found = [block_size(dimension) for dimension in range(10)]
    assert found == [0, 1, 2, 2, 4, 4, 4, 4, 8, 8]


def test_a_sum_is_turned_into_the_sum() -> None:
    """What makes it fit for sums: a mean that is turned back is the mean."""
    first, second = np.random.default_rng(1).standard_normal((2, 100))
    both = rotate(first, SEED) + rotate(second, SEED)
    # Three vectors of a norm of about 10, each off by 2^-47 of it and less than as much in their sums.
    np.testing.assert_allclose(both, rotate(first + second, SEED), atol=60 * ROUNDING)


# Nothing stands out.


def standing_out(dimension: int) -> dict[str, NDArray[np.float64]]:
    """Vectors of norm 1 that are as uneven as can be, before or after a transform without signs."""
    places = np.arange(dimension)
    spikes = {f"spike at {at}": 1.0 * (places == at) for at in (0, dimension // 2, dimension - 1)}
    flat = np.full(dimension, 1 / np.sqrt(dimension))
    return spikes | {"flat": flat, "alternating": flat * (-1.0) ** places}


@pytest.mark.parametrize("dimension", [64, 100])
@pytest.mark.exhaustive(but=1)
def test_every_coordinate_has_at_most_its_variance(dimension: int) -> None:
    count = 4000
    bound = 1 / block_size(dimension)
    for vector in standing_out(dimension).values():
        turned = np.array([rotate(vector, seed_of(number)) for number in range(count)])
        found = np.mean(turned**2, axis=0)
        # For a sum of signs x², averaged over the seeds, has a deviation of at most √(2/count) = 2.2 % of
        # its mean; of 1,000 of them none is off by six times that.
        assert (found <= bound * (1 + 6 * np.sqrt(2 / count))).all()
        assert (np.abs(turned.mean(axis=0)) <= 6 * np.sqrt(bound / count)).all()
        if dimension == 64:  # where both transforms are over everything, the variance is the bound
            assert (found >= bound * (1 - 6 * np.sqrt(2 / count))).all()
            for wrong in (2 / 3, 3 / 2):
                assert not (np.abs(found / (bound * wrong**2) - 1) < 6 * np.sqrt(2 / count)).any()


@pytest.mark.parametrize("dimension", [5000, 2**13])
def test_spikes_are_spread(dimension: int) -> None:
    deviation = 1 / np.sqrt(block_size(dimension))
    for vector in standing_out(dimension).values():
        turned = rotate(vector, SEED)
        # 2·exp(-8²/2) a coordinate: 1e-10 for all of 8,192.
        assert np.abs(turned).max() <= 8 * deviation


def test_whoever_knows_the_seed_finds_a_spike_and_another_seed_spreads_it() -> None:
    """Control: the bound is over seeds, and this is what one vector too much chosen looks like."""
    spike = 1.0 * (np.arange(4096) == 7)
    chosen = rotate_back(spike, SEED)
    np.testing.assert_allclose(rotate(chosen, SEED), spike, atol=2 * ROUNDING)
    assert np.abs(rotate(chosen, seed_of(1))).max() <= 8 / np.sqrt(4096)


def test_without_signs_a_flat_vector_would_become_a_spike() -> None:
    flat = np.full(1024, 1 / 32)
    assert np.abs(hadamard(1024) @ flat).max() / 32 == pytest.approx(1.0)
    assert np.abs(rotate(flat, SEED)).max() <= 8 / 32


def test_other_seeds_turn_otherwise() -> None:
    vector = np.random.default_rng(2).standard_normal(256)
    turned = [rotate(vector, seed) for seed in (SEED, seed_of(0), bytes(31) + b"\x01")]
    assert np.array_equal(rotate(vector, SEED), turned[0])
    norm = float(vector @ vector)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        # The product of independent turns has a deviation of norm²/√256.
        assert abs(turned[first] @ turned[second]) < 6 * norm / 16
