"""Noise: the right distribution, and no other."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import get_args

import mpmath
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy import special, stats

from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import (
    ChaCha20Source,
    NoisePurpose,
    _blocks,
    _Law,
    _log_poisson,
    _poisson,
    fresh_entropy,
    fresh_source,
    keyed_entropy,
    keyed_source,
)

SIZE = 40_000
# A test at this level fails for one key in a million; 40,000 draws of a scale wrong by a third give
# p-values far below 1e-100.
LEVEL = 1e-6


def fits(sample: np.ndarray, distribution: str, scale: float) -> bool:
    return stats.kstest(sample, distribution, args=(0.0, scale)).pvalue > LEVEL


@pytest.mark.parametrize(("name", "distribution"), [("gaussian", "norm"), ("laplace", "laplace")])
def test_noise_has_the_scale_and_no_other(name: str, distribution: str) -> None:
    mechanism = Mechanism(name=name, multiplier=1.5)
    sample = mechanism.noise(SIZE, steps=2.0**40, source=keyed_source(0, name)) * 2.0**-39
    assert fits(sample, distribution, 3.0)
    assert not fits(sample, distribution, 3.0 * 2 / 3)
    assert not fits(sample, distribution, 3.0 * 3 / 2)


def test_poisson_sample_has_the_rate_and_no_other() -> None:
    source = keyed_source(0, "sample")
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
    source = ChaCha20Source(bytes(32))
    source._stream = SimpleNamespace(update=lambda zeros: bytes([byte]) * len(zeros))
    assert 0.0 < source._uniform(1)[0] < 1.0


# Integers.


@pytest.mark.parametrize("variance", [0.0, -1.0, 1e-10, 2.0**53, float("nan"), float("inf")])
def test_variances_that_cannot_be_drawn_are_refused(variance: float) -> None:
    with pytest.raises(ValueError, match="expected the variance of integer noise"):
        keyed_source(0).skellam(1, variance=variance)


# From where nearly all draws are 0, over blocks of one integer, to blocks of 2^18.
MEANS = [5e-10, 0.01, 0.5, 3.7, 15.9, 40.0, 999.0, 4000.5, 1e5, 1e8 + 0.5, 2.0**51]


def outcomes(law: _Law, *, count: int = 60) -> np.ndarray:
    return np.unique(np.linspace(law.low, law.high, count).astype(np.int64))


def drawn_log_probabilities(law: _Law, outcome: np.ndarray) -> list[mpmath.mpf]:
    """What the blocks give each outcome: its block's weight, its part of it, its acceptance."""
    blocks = _blocks(law)
    weights = np.diff(blocks.ends, prepend=np.uint64(0))
    block = (outcome - law.low) >> blocks.bits
    accepted = blocks.acceptance(law, outcome, block)
    return [
        mpmath.log(int(weights[b])) - blocks.bits * mpmath.log(2) + mpmath.log(float(a))
        for b, a in zip(block, accepted, strict=True)
    ]


def exact_log_probabilities(mean: float, outcome: np.ndarray) -> list[mpmath.mpf]:
    """To 50 digits, but for a constant."""
    exact = mpmath.mpf(mean)
    return [k * mpmath.log(exact) - exact - mpmath.loggamma(k + 1) for k in map(int, outcome)]


@pytest.mark.parametrize("mean", MEANS)
def test_poisson_numbers_have_their_probabilities(mean: float) -> None:
    law = _poisson(mean)
    outcome = outcomes(law)
    with mpmath.workdps(50):
        drawn = drawn_log_probabilities(law, outcome)
        exact = exact_log_probabilities(mean, outcome)
        constant = drawn[int(np.argmax(exact))] - max(exact)
        # Outcomes 2^-80 times as likely as the likeliest are in the tails that the docstring leaves out.
        likely = [e > max(exact) - 80 * mpmath.log(2) for e in exact]
        off = [abs(d - e - constant) for d, e in zip(drawn, exact, strict=True)]
    # The docstring's 2^-38, in logarithms.
    assert max(o for o, is_likely in zip(off, likely, strict=True) if is_likely) < 2.0**-38


@pytest.mark.parametrize("mean", MEANS)
def test_acceptance_is_a_probability_and_what_is_sure_is_sure(mean: float) -> None:
    law = _poisson(mean)
    blocks = _blocks(law)
    outcome = outcomes(law, count=5000)
    block = (outcome - law.low) >> blocks.bits
    accepted = blocks.acceptance(law, outcome, block)
    # Both up to float64's rounding of the logarithms, as the docstring has it.
    assert (accepted <= 1 + 2.0**-38).all()
    assert (accepted >= blocks.sure[block] * (1 - 2.0**-38)).all()
    assert int(blocks.ends[-1]) > 2**64 - 2**25, "the weights must not wrap around"
    assert len(blocks.ends) <= 4096


@pytest.mark.parametrize("mean", [0.5, 40.0, 1e5, 1e8])
def test_what_is_cut_off_is_under_its_bound(mean: float) -> None:
    law = _poisson(mean)
    above = stats.poisson.logsf(law.high, mean)
    below = stats.poisson.logcdf(law.low - 1, mean) if law.low else -np.inf
    assert max(above, below) < -64 * np.log(2)


def test_the_textbook_form_of_poisson_probabilities_would_not_do() -> None:
    mean, k = 2.0**51, 2.0**51 + 2.0**26
    with mpmath.workdps(50):
        exact = float(k * mpmath.log(mean) - mean - mpmath.loggamma(k + 1))
    textbook = k * np.log(mean) - mean - special.gammaln(k + 1)
    assert abs(_log_poisson(np.array([k]), mean)[0] - exact) < 2.0**-40
    assert abs(textbook - exact) > 1.0


@pytest.mark.parametrize("variance", [0.3, 6.0, 900.0])
def test_skellam_draws_pass_a_chi_square_test_of_every_integer(variance: float) -> None:
    """Merged in the tails so that every class expects 10 draws; the wrong variances must not pass."""

    def passes(sample: np.ndarray, tested: float) -> bool:
        law = stats.skellam(tested / 2, tested / 2)
        edge = int(law.ppf(1 - 10 / SIZE))
        classes = np.arange(-edge, edge + 1)
        expected = law.pmf(classes)
        expected[[0, -1]] = law.cdf(-edge), law.sf(edge - 1)
        found = np.bincount(np.clip(sample, -edge, edge) + edge, minlength=len(classes))
        return bool(stats.chisquare(found, expected / expected.sum() * SIZE).pvalue > LEVEL)

    sample = keyed_source(0, "skellam").skellam(SIZE, variance=variance)
    assert passes(sample, variance)
    assert not passes(sample, variance * 4 / 9)
    assert not passes(sample, variance * 9 / 4)


@pytest.mark.parametrize("std", [2.0**10, 2.0**25])
def test_large_integers_are_normal(std: float) -> None:
    """At these sizes both laws differ from the normal one by less than 1/std, a KS test by 0.013."""
    source = keyed_source(0, "large")
    for sample in (
        source.skellam(SIZE, variance=std**2),
        source.discrete_gaussian(SIZE, std=std),
    ):
        assert fits(sample, "norm", std)
        assert not fits(sample, "norm", std * 2 / 3)
        assert not fits(sample, "norm", std * 3 / 2)
        # Low bits must be uniform too: blocks are chosen apart from places in them.
        assert stats.chisquare(np.bincount(sample & 15, minlength=16)).pvalue > LEVEL


def test_integer_draws_are_independent() -> None:
    """Rejected draws are drawn again: that must not tie a draw to the one before it."""
    sample = keyed_source(0, "again").skellam(SIZE, variance=1e6)
    # The correlation of independent neighbours has a standard deviation of 1/√40000 = 0.005.
    assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 5 * 0.005


def test_no_integers_are_drawn_where_none_are_asked_for() -> None:
    for drawn in (keyed_source(0).skellam(0, variance=4.0), keyed_source(0).discrete_gaussian(0, std=2.0)):
        assert drawn.shape == (0,)
        assert drawn.dtype == np.int64


@pytest.mark.parametrize("end", [1, 2, 3, 10, 255, 256, 257])
def test_integers_below_an_end_are_uniform(end: int) -> None:
    source = keyed_source(0, "below", end)
    found = np.bincount([source.below(end) for _ in range(SIZE // 4)], minlength=end)
    assert len(found) == end
    assert end == 1 or stats.chisquare(found).pvalue > LEVEL


def test_integers_below_an_end_are_those_of_the_stream_that_fall_below() -> None:
    """Rejected, never reduced: remainders of 16 by 10 would make 0 to 5 twice as likely as 6 to 9."""
    source = ChaCha20Source(bytes(32))
    stream = iter([0xF7, 0xA0, 0x9F, 0x00])
    source._stream = SimpleNamespace(update=lambda zeros: bytes([next(stream)]) * len(zeros))
    # By the high four bits of each byte: 15 and 10 are rejected.
    assert [source.below(10), source.below(10)] == [9, 0]
    assert 2**1000 < keyed_source(0).below(2**1030) < 2**1030


@pytest.mark.parametrize("end", [0, -5])
def test_nothing_is_below_zero(end: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        keyed_source(0).below(end)


# Keys.


def test_keyed_noise_is_a_function_of_its_whole_path() -> None:
    def draw(*path: str | int, seed: int = 1) -> bytes:
        return keyed_source(seed, *path).discrete_gaussian(8, std=1e9).tobytes()

    def integers(site: str) -> bytes:
        return keyed_source(1, site).skellam(8, variance=1e6).tobytes()

    assert integers("site-1") == integers("site-1") != integers("site-2")
    assert draw("site-1", 2, 3) == draw("site-1", 2, 3)
    others = [draw("site-1", 2, 4), draw("site-1", 3, 3), draw("site-2", 2, 3), draw(seed=2)]
    # A path must not be read in two ways: ("a", 12) is not ("a", 1, 2), nor ("a1", 2).
    others += [draw("a", 12), draw("a", 1, 2), draw("a1", 2), draw("site-1", 2, 3)]
    assert len(set(others)) == len(others)


def test_each_purpose_of_each_step_and_party_has_a_stream_of_its_own() -> None:
    purposes = get_args(NoisePurpose)
    asked = list(itertools.product(("site-1", "coordinator"), (1, 2), (0, 1), purposes))
    seeds = {keyed_entropy(1, party)(*what).seed() for party, *what in asked}
    # Seeds have 63 bits: two of so few are the same once in 10^15 times.
    assert len(seeds) == len(asked)
    assert all(keyed_entropy(1, "site-1")(1, 0, p).seed() in seeds for p in purposes)
    assert len({fresh_entropy(1, 0, p).seed() for p in purposes * 2}) == 2 * len(purposes)


def test_fresh_noise_never_repeats() -> None:
    assert (
        fresh_source().discrete_gaussian(8, std=1e9).tobytes()
        != fresh_source().discrete_gaussian(8, std=1e9).tobytes()
    )


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
