"""Discrete Laplace and Gaussian noise in whole arrays, every outcome with exactly its own probability.

Floating point proposes and integers decide: a random word is compared with a float64 that is right to far
better than ``_MARGIN``, and the few comparisons that are closer are made again with as many digits, and as
many more random bits, as it takes. So no outcome is impossible, and none is a little too likely.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

# Draws uint64[size], all bits uniform.
Words = Callable[[int], NDArray[np.uint64]]

# One comparison in 2^39 is closer than this; float64 is off by 2^-44 at most (see ``draw_gaussian``).
_MARGIN = 2.0**-40
# Noise is an int64: this leaves room for values of 2^7 scales, beyond which lies a mass of e^-128.
SCALE_MAX = 2**55
_WORD = 2**64
# Attempts made at once: what is computed of them on the way stays in the processor's cache.
_CHUNK = 2**14


def draw_laplace(size: int, *, scale: int, words: Words) -> NDArray[np.int64]:
    """Draw int64[size], each k with a probability proportional to exp(−|k| / ``scale``), exactly.

    Raises ValueError unless ``scale`` is a whole number in [1, 2^55].

    Source: Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), algorithm 2.
    """
    if scale != int(scale) or not 1 <= scale <= SCALE_MAX:
        raise ValueError(f"expected a whole scale in [1, 2^55], got scale={scale}")
    return _filled(size, lambda asked: _laplace_attempts(asked, scale, words))


def draw_gaussian(size: int, *, std: float, words: Words) -> NDArray[np.int64]:
    """Draw int64[size], each k with a probability proportional to exp(−k² / 2``std``²), exactly.

    ``std`` stands for the rational number that the float is. Raises ValueError unless it is in
    [1e-6, 2^54].

    A proposal k is kept with a probability of exp(−γ), γ = (|k| − σ²/t)² / 2σ². In float64 the difference
    is off by 2^-52 · |k|; where |k| and the difference are under 12σ, so is γ by 144 · 2^-51, or 2^-43.8.
    Where they are larger, exp(−γ) is so far under the margin that its error is, too.

    Source: Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), algorithm 3.
    """
    if not 1e-6 <= std <= SCALE_MAX / 2:
        raise ValueError(f"expected a standard deviation in [1e-6, 2^54], got std={std}")
    exact = Fraction(std) ** 2
    scale = math.floor(std) + 1

    def gamma(proposed: int) -> Fraction:
        return (abs(proposed) - exact / scale) ** 2 / (2 * exact)

    def attempts(asked: int) -> NDArray[np.int64]:
        proposed = _laplace_attempts(asked, scale, words)
        near = np.abs(proposed).astype(np.float64) - float(exact / scale)
        gammas = (near / std) ** 2 / 2.0
        return proposed[_happens(gammas, lambda place: gamma(int(proposed[place])), words)]

    return _filled(size, attempts)


def _filled(size: int, attempts: Callable[[int], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Independent attempts, of which some fail, until there are enough."""
    found = [np.zeros(0, np.int64)]
    missing = size
    while missing > 0:
        # About half of the attempts succeed; more than are needed are made, and the first ones taken.
        kept = attempts(min(2 * missing + 16, _CHUNK))[:missing]
        found.append(kept)
        missing -= len(kept)
    return np.concatenate(found)


def _laplace_attempts(asked: int, scale: int, words: Words) -> NDArray[np.int64]:
    """Passes of algorithm 2, without those after which it starts again."""
    places = _below(asked, scale, words)
    kept = _happens(places / scale, lambda place: Fraction(int(places[place]), scale), words)
    places = places[kept]
    sizes = places + scale * _geometric(len(places), words)
    negative = (words(len(sizes)) & np.uint64(1)).astype(bool)
    values = np.where(negative, -sizes, sizes)
    return values[~negative | (sizes > 0)]  # else 0 would come twice as often


def _below(asked: int, end: int, words: Words) -> NDArray[np.int64]:
    """At most ``asked`` integers from 0 to ``end`` − 1, each as likely as the others."""
    drawn = words(asked)
    whole = _WORD - _WORD % end  # words from here on would favour the small remainders
    fair = drawn < np.uint64(whole) if whole < _WORD else np.ones(asked, bool)
    chosen = drawn if fair.all() else drawn[fair]
    return (chosen % np.uint64(end)).astype(np.int64)


def _geometric(size: int, words: Words) -> NDArray[np.int64]:
    """Draw int64[size], each v with probability (1 − 1/e) · e^−v."""
    drawn = words(size)
    # A word that is under the threshold of j, rounded down, is a uniform number under e^-j.
    passed = np.searchsorted(_THRESHOLDS, drawn, side="right")
    found = len(_THRESHOLDS) - passed
    # A word at a threshold may be on either side of it, and one of 0 under those that are not listed.
    undecided = (_THRESHOLDS[passed - 1] == drawn) | (drawn == 0)
    for place in np.flatnonzero(undecided):
        uniform = _Uniform(int(drawn[place]), words)
        value = 0
        while uniform.is_below_exp(Fraction(value + 1)):
            value += 1
        found[place] = value
    return found.astype(np.int64)


def _happens(
    gammas: NDArray[np.float64], exact: Callable[[int], Fraction], words: Words
) -> NDArray[np.bool_]:
    """Whether events of probabilities exp(−γ) happen; ``exact`` gives the γ >= 0 at a place."""
    drawn = words(len(gammas))
    # Signed integers become floats faster; without its last bit a word is off by 2^-64 at most.
    uniform = (drawn >> np.uint64(1)).view(np.int64) * 2.0**-63
    room = np.exp(-gammas) - uniform
    happens: NDArray[np.bool_] = room > _MARGIN
    for place in np.flatnonzero(np.abs(room) <= _MARGIN):
        happens[place] = _Uniform(int(drawn[place]), words).is_below_exp(exact(int(place)))
    return happens


class _Uniform:
    """A uniform real number in [0, 1), of which as many bits are drawn as somebody asks about."""

    def __init__(self, word: int, words: Words) -> None:
        self._low, self._bits, self._words = word, 64, words

    def is_below_exp(self, gamma: Fraction) -> bool:
        """Whether it is under exp(−``gamma``), for ``gamma`` >= 0."""
        if gamma == 0:
            return True
        while True:
            low, high = _exp_bounds(gamma, bits=self._bits)
            if self._low + 1 <= low:
                return True
            if self._low >= high:
                return False
            self._low = (self._low << 64) | int(self._words(1)[0])
            self._bits += 64


def _exp_bounds(gamma: Fraction, *, bits: int) -> tuple[int, int]:
    """Whole numbers around 2^``bits`` · exp(−``gamma``), less than 3 apart.

    Some forty digits more are computed than the bits ask for. The quotient and the exponential are each
    right to half a unit of the last one, and γ · exp(−γ) < 1.
    """
    if gamma > bits:
        return 0, 1  # 2^bits · exp(−γ) is under 1
    with decimal.localcontext() as context:
        context.prec = bits // 3 + 40 + len(str(gamma.numerator // gamma.denominator))
        context.Emin, context.Emax = decimal.MIN_EMIN, decimal.MAX_EMAX
        quotient = decimal.Decimal(-gamma.numerator) / decimal.Decimal(gamma.denominator)
        found = Fraction(quotient.exp()) * 2**bits
    return math.floor(found) - 1, math.ceil(found) + 1


# e^-j in units of 2^-64, rounded down, in rising order; from j = 45 on it is 0.
_THRESHOLDS = np.array(
    [_exp_bounds(Fraction(j), bits=64)[0] + 1 for j in range(44, 0, -1)], dtype=np.uint64
)
