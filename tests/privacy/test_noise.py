"""Noise: the right distribution, and no other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy import stats

from privacy.errors import PlanError
from privacy.mechanisms import Mechanism
from privacy.noise import ChaCha20Source, fresh_source, keyed_source

SIZE = 40_000
# A Kolmogorov-Smirnov test at this level fails once in a million runs under fresh entropy; 40,000
# draws of a scale wrong by a third give p-values far below 1e-100.
LEVEL = 1e-6


def fits(sample: np.ndarray, distribution: str, scale: float) -> bool:
    return stats.kstest(sample, distribution, args=(0.0, scale)).pvalue > LEVEL


@pytest.mark.parametrize(("name", "distribution"), [("gaussian", "norm"), ("laplace", "laplace")])
def test_noise_has_the_scale_and_no_other(name: str, distribution: str) -> None:
    mechanism = Mechanism(name=name, multiplier=1.5)
    sample = mechanism.noise(SIZE, clipping_norm=2.0, source=fresh_source())
    assert fits(sample, distribution, 3.0)
    assert not fits(sample, distribution, 3.0 * 2 / 3)
    assert not fits(sample, distribution, 3.0 * 3 / 2)


def test_gaussian_coordinates_are_independent() -> None:
    """Box-Muller makes pairs: halves of the vector must not be correlated, nor their squares."""
    sample = fresh_source().gaussian(SIZE, std=1.0)
    half = SIZE // 2
    # The correlation of independent halves has a standard deviation of 1/√20000 = 0.007.
    for transform in (lambda x: x, np.square):
        first, second = transform(sample[:half]), transform(sample[half:])
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_poisson_sample_has_the_rate_and_no_other() -> None:
    source = fresh_source()
    counts = [len(source.poisson_sample(1000, rate=0.1)) for _ in range(200)]
    # The mean of 200 counts has a standard deviation of √(1000·0.1·0.9/200) = 0.67.
    assert abs(np.mean(counts) - 100) < 5 * 0.67
    # And the size itself varies, as a binomial's: variance 90, whose estimate varies by 10 %.
    assert 45 < np.var(counts) < 180


def test_poisson_sample_at_the_ends() -> None:
    assert len(fresh_source().poisson_sample(100, rate=1.0)) == 100
    assert len(fresh_source().poisson_sample(0, rate=0.5)) == 0


def test_bits_are_those_of_the_published_cipher() -> None:
    """RFC 8439, appendix A.1, test vector 1: key, counter and nonce of zeros."""
    expected = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    stream = Cipher(ChaCha20(bytes(32), bytes(16)), mode=None).encryptor().update(bytes(32))
    assert stream == expected
    words = np.frombuffer(expected, "<u8") >> np.uint64(12)
    assert np.array_equal(ChaCha20Source(bytes(32))._uniform(4), words * 2.0**-52 + 2.0**-53)


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_uniforms_are_never_zero_or_one(byte: int) -> None:
    """At the ends Box-Muller would take the logarithm of 0, and Laplace noise would be infinite."""
    source = ChaCha20Source(bytes(32))
    source._stream = SimpleNamespace(update=lambda zeros: bytes([byte]) * len(zeros))
    assert 0.0 < source._uniform(1)[0] < 1.0
    assert np.isfinite(source.laplace(1, scale=1.0)).all()
    assert np.isfinite(source.gaussian(2, std=1.0)).all()


def test_keyed_noise_is_a_function_of_its_whole_path() -> None:
    def draw(*path: str | int, seed: int = 1) -> bytes:
        return keyed_source(seed, *path).gaussian(8, std=1.0).tobytes()

    assert draw("site-1", 2, 3) == draw("site-1", 2, 3)
    others = [draw("site-1", 2, 4), draw("site-1", 3, 3), draw("site-2", 2, 3), draw(seed=2)]
    # A path must not be read in two ways: ("a", 12) is not ("a", 1, 2), nor ("a1", 2).
    others += [draw("a", 12), draw("a", 1, 2), draw("a1", 2), draw("site-1", 2, 3)]
    assert len(set(others)) == len(others)


def test_fresh_noise_never_repeats() -> None:
    assert fresh_source().gaussian(8, std=1.0).tobytes() != fresh_source().gaussian(8, std=1.0).tobytes()


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ChaCha20Source(b"short")


@pytest.mark.parametrize(
    ("name", "multiplier"),
    [("gaussian", 0.0), ("none", 1.0), ("gaussian", -1.0), ("laplace", float("nan"))],
)
def test_mechanisms_that_say_one_thing_and_do_another_are_refused(name: str, multiplier: float) -> None:
    with pytest.raises(PlanError):
        Mechanism(name=name, multiplier=multiplier)
