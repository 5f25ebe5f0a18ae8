"""Where random bits come from: a ChaCha20 key stream, keyed afresh or by name."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from privacy.mechanisms.exact_noise import draw_gaussian, draw_laplace

_KEY_BYTES = 32

# Integer noise: outcomes of a total mass under 2 · 2^-64 are never drawn. In nats.
_TAIL = 64 * math.log(2.0)
# Integers are drawn from blocks, at most so many. A block of one integer needs no rejection.
_BLOCKS = 4096
# Up to 2^53 an integer is a float64; below the minimum nearly all draws are zero.
_VARIANCE_MIN, _VARIANCE_MAX = 1e-9, 2.0**52


class NoiseSource(Protocol):
    """What a mechanism draws from. The choice of source is made at the edge, once."""

    def skellam(self, size: int, *, variance: float) -> NDArray[np.int64]:
        """Draw int64[size], each the difference of two Poisson numbers of mean ``variance / 2``."""
        ...

    def discrete_gaussian(self, size: int, *, std: float) -> NDArray[np.int64]:
        """Draw int64[size] with probabilities proportional to exp(−k² / 2std²)."""
        ...

    def discrete_laplace(self, size: int, *, scale: int) -> NDArray[np.int64]:
        """Draw int64[size] with probabilities proportional to exp(−|k| / scale)."""
        ...

    def poisson_sample(self, population: int, *, rate: float) -> NDArray[np.int64]:
        """Draw the indices of a Poisson sample: each of ``population`` with probability ``rate``."""
        ...

    def below(self, end: int) -> int:
        """Draw an integer from 0 to ``end`` − 1, each as likely as the others, exactly."""
        ...

    def seed(self) -> int:
        """Draw a 63-bit seed for randomness that need not be secret, such as dropout.

        What it seeds is no cryptographic generator, and may use fewer bits: whoever sees its results can
        try them all. So nothing that hides an example may rest on it.
        """
        ...


class ChaCha20Source:
    """Noise from a ChaCha20 key stream (RFC 8439) under a 256-bit key.

    Discrete Gaussian and Laplace numbers have exactly their own probabilities: see
    ``privacy.mechanisms.exact_noise``.

    Poisson numbers come by rejection from a step function over their distribution, whose steps have 64-bit
    integer weights. An outcome's probability is right to a relative 2^-38, which is float64's rounding;
    outcomes in the tails, of a total mass under 2^-62, come at other odds or never. A Skellam number takes
    two Poisson numbers, and an ε two probabilities: d of them add at most d · 2^-36 to ε and d · 2^-60 to
    δ.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"expected a key of {_KEY_BYTES} bytes, got {len(key)}")
        # The 16 bytes are a zero counter and a zero nonce: the key is used for one stream only.
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def _words(self, size: int) -> NDArray[np.uint64]:
        """uint64[size], all bits uniform."""
        return np.frombuffer(self._stream.update(bytes(8 * size)), dtype="<u8")

    def _uniform(self, size: int) -> NDArray[np.float64]:
        """float64[size], uniform on the 2^52 midpoints of (0, 1), each of them exact."""
        return (self._words(size) >> np.uint64(12)).astype(np.float64) * 2.0**-52 + 2.0**-53

    def skellam(self, size: int, *, variance: float) -> NDArray[np.int64]:
        law = _poisson(variance / 2.0)
        return self._integers(size, law) - self._integers(size, law)

    def discrete_gaussian(self, size: int, *, std: float) -> NDArray[np.int64]:
        return draw_gaussian(size, std=std, words=self._words)

    def discrete_laplace(self, size: int, *, scale: int) -> NDArray[np.int64]:
        return draw_laplace(size, scale=scale, words=self._words)

    def _integers(self, size: int, law: _Law) -> NDArray[np.int64]:
        """Draw int64[size] from ``law``, in whole arrays until none is missing."""
        blocks = _blocks(law)
        accepted = [np.zeros(0, np.int64)]
        missing = size
        while missing:
            kept = blocks.kept(law, self._words(missing), self._words(missing), self._uniform(missing))
            accepted.append(kept)
            missing -= len(kept)
        return np.concatenate(accepted)

    def poisson_sample(self, population: int, *, rate: float) -> NDArray[np.int64]:
        return np.flatnonzero(self._uniform(population) < rate)

    def below(self, end: int) -> int:
        if end < 1:
            raise ValueError(f"expected an integer above 0 to draw below, got end={end}")
        bits = (end - 1).bit_length()
        size = (bits + 7) // 8
        while True:
            drawn = int.from_bytes(self._stream.update(bytes(size)), "little") >> (8 * size - bits)
            if drawn < end:
                return drawn

    def seed(self) -> int:
        return int.from_bytes(self._stream.update(bytes(8)), "little") >> 1


# What noise is drawn for: each purpose has a stream of its own, in each step of each round.
NoisePurpose = Literal[
    "sampling", "dropout", "answers", "gradients", "stream", "update", "metrics", "statistics", "sum"
]


class Entropy(Protocol):
    """Where the randomness of a step of a round comes from, by what it is for."""

    def __call__(self, round_number: int, step: int, purpose: NoisePurpose, /) -> NoiseSource:
        """A source for one purpose. ``step`` counts from 0; it is 0 for what is drawn once a round."""
        ...


def fresh_entropy(_round_number: int, _step: int, _purpose: NoisePurpose) -> NoiseSource:
    """A fresh source each time it is asked: nothing repeats."""
    return fresh_source()


def keyed_entropy(seed: int, party: str) -> Entropy:
    """Randomness of one party of a simulation, which repeats: see ``keyed_source``."""
    return lambda round_number, step, purpose: keyed_source(seed, party, purpose, round_number, step)


def fresh_source() -> ChaCha20Source:
    """A source keyed by the operating system's entropy. This is what privacy rests on."""
    return ChaCha20Source(os.urandom(_KEY_BYTES))


def keyed_source(seed: int, *path: str | int) -> ChaCha20Source:
    """A source that gives the same noise for the same seed and path, on every machine.

    Whoever knows the seed can subtract the noise: a run that uses this protects nobody. It exists
    so that a simulation can be repeated bit for bit.
    """
    name = "\x1f".join(["confide noise", str(seed), *map(str, path)])
    return ChaCha20Source(hashlib.sha256(name.encode()).digest())


@dataclass(frozen=True, kw_only=True)
class _Law:
    """A distribution on the integers that falls on both sides of ``mode``.

    ``log_weight`` is the logarithm of the probability, but for a constant, of float64 integers; ``low`` to
    ``high`` are those that are drawn.
    """

    log_weight: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    mode: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """A step function over a law: blocks of ``2^bits`` integers, each as high as its highest outcome.

    ``ends`` are the cumulated weights, uint64 of a total just under 2^64. ``tops`` are the logarithms of
    the heights; ``shares`` what a block's exact weight is of its integer one, rounded up; ``sure`` the
    acceptance of its lowest outcome, under which none needs to be computed.
    """

    bits: int
    low: int
    ends: NDArray[np.uint64]
    tops: NDArray[np.float64]
    shares: NDArray[np.float64]
    sure: NDArray[np.float64]

    def kept(
        self, law: _Law, words: NDArray[np.uint64], places: NDArray[np.uint64], uniform: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """The outcomes among those proposed by a block, a place in it and a uniform height."""
        block = np.searchsorted(self.ends, words, side="right")
        inside = block < len(self.ends)
        block = np.minimum(block, len(self.ends) - 1)
        place = (places & np.uint64((1 << self.bits) - 1)).astype(np.int64)
        outcome = self.low + (block << self.bits) + place
        keep = inside & (uniform < self.sure[block])
        open_ = np.flatnonzero(inside & ~keep)
        keep[open_] = uniform[open_] < self.acceptance(law, outcome[open_], block[open_])
        return outcome[keep]

    def acceptance(
        self, law: _Law, outcome: NDArray[np.int64], block: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The probability of an outcome over that of its being proposed, but for a constant."""
        return np.exp(law.log_weight(outcome.astype(np.float64)) - self.tops[block]) * self.shares[block]


def _blocks(law: _Law) -> _Blocks:
    bits = max(0, math.ceil(math.log2((law.high - law.low + 1) / _BLOCKS)))
    first = np.arange(law.low, law.high + 1, 1 << bits, dtype=np.int64)
    last = first + ((1 << bits) - 1)
    tops = law.log_weight(np.clip(law.mode, first, last).astype(np.float64))
    lows = np.minimum(law.log_weight(first.astype(np.float64)), law.log_weight(last.astype(np.float64)))
    weights = np.exp(tops - tops.max())
    # The total stays under 2^64 by 2^24: room for rounding up 4,096 weights, and for float64's own.
    exact = weights / weights.sum() * (2.0**64 - 2.0**24)
    whole = np.maximum(np.ceil(exact), 1.0)
    return _Blocks(
        bits=bits,
        low=law.low,
        ends=np.cumsum(whole.astype(np.uint64)),
        tops=tops,
        shares=exact / whole,
        sure=np.exp(lows - tops) * (exact / whole),
    )


def _poisson(mean: float) -> _Law:
    _check_variance(2.0 * mean)
    # P(X ≤ mean − t) ≤ exp(−t² / 2mean) and P(X ≥ mean + t) ≤ exp(−t² / 2(mean + t/3)), which is
    # Bernstein's bound (Boucheron, Lugosi and Massart 2013, sections 2.2 and 2.7), solved for t.
    low = max(0, math.floor(mean - math.sqrt(2.0 * _TAIL * mean)))
    high = math.ceil(mean + _TAIL / 3.0 + math.sqrt((_TAIL / 3.0) ** 2 + 2.0 * _TAIL * mean))
    return _Law(log_weight=lambda k: _log_poisson(k, mean), mode=math.floor(mean), low=low, high=high)


def _check_variance(variance: float) -> None:
    if not _VARIANCE_MIN <= variance <= _VARIANCE_MAX:
        raise ValueError(
            f"expected the variance of integer noise in [{_VARIANCE_MIN:g}, 2^52], got {variance}: "
            "encode with another scale"
        )


_LOG_FACTORIALS = np.array([math.lgamma(k + 1.0) for k in range(16)])
# (1 + x) ln(1 + x) − x = Σ (−x)^n / (n (n − 1)): to 2^-53 for |x| < 0.3 by these terms.
_DEVIANCE = np.array([0.0, 0.0, *((-1.0) ** n / (n * (n - 1)) for n in range(2, 32))])


def _log_poisson(k: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """The logarithm of a Poisson probability, without the cancellation of its textbook form.

    Source: Loader 2000, "Fast and accurate computation of binomial probabilities", section 4.
    """
    few = k < len(_LOG_FACTORIALS)
    many = np.where(few, float(len(_LOG_FACTORIALS)), k)
    x = (many - mean) / mean
    near = np.abs(x) < 0.3
    series = mean * np.polynomial.polynomial.polyval(np.where(near, x, 0.0), _DEVIANCE)
    deviance = np.where(near, series, many * np.log(many / mean) - (many - mean))
    inverse = 1.0 / many**2
    stirling = (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse * (1 / 1680)))) / many
    large = -deviance - stirling - 0.5 * np.log(2.0 * math.pi * many)
    small = k * math.log(mean) - mean - _LOG_FACTORIALS[np.minimum(k, 15.0).astype(np.int64)]
    return np.where(few, small, large)
