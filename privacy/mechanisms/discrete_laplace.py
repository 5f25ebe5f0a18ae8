"""Integer Laplace noise, drawn exactly: no float comes near it."""

from __future__ import annotations

from fractions import Fraction

from privacy.mechanisms.rng import NoiseSource


def draw_integer_laplace(*, scale: Fraction, source: NoiseSource) -> int:
    """Draw one integer k with a probability proportional to exp(−|k| / ``scale``), over all integers.

    All arithmetic is on integers, so the probabilities are these and no others, for any ``scale``. It takes
    some ten uniform integers, and a little longer for a large |k|. Raises ValueError unless ``scale`` is
    above 0.

    Source: Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), algorithm 2.
    """
    if scale <= 0:
        raise ValueError(f"expected a scale above 0, got scale={scale}")
    while True:
        drawn = _attempt(scale, source)
        if drawn is not None:
            return drawn


def _attempt(scale: Fraction, source: NoiseSource) -> int | None:
    """One pass of algorithm 2: an integer, or None where it says to start again."""
    width = scale.numerator
    place = source.below(width)
    if not _bernoulli_exp(Fraction(place, width), source):
        return None
    blocks = 0
    while _bernoulli_exp(Fraction(1), source):
        blocks += 1
    # Geometric with ratio exp(−1 / numerator); of every ``denominator`` of them it makes one.
    size = (place + width * blocks) // scale.denominator
    negative = source.below(2) == 1
    if negative and size == 0:
        return None  # else 0 would come twice as often
    return -size if negative else size


def _bernoulli_exp(gamma: Fraction, source: NoiseSource) -> bool:
    """True with a probability of exp(−``gamma``), for ``gamma`` in [0, 1].

    Source: Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), algorithm 1.
    """
    tries = 1
    while source.below(gamma.denominator * tries) < gamma.numerator:
        tries += 1
    return tries % 2 == 1
