"""What discrete noise costs beyond noise on real numbers: nothing, for the room that a mechanism leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privacy.mechanisms.clipping import STEPS, Clipped
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source

Mass = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# Where hockey-stick divergences are compared, in nats; float64's rounding in sums of thousands of terms.
EPSILONS = np.concatenate([np.linspace(-3, 3, 101), np.linspace(-0.1, 0.1, 101)])
ROUNDING = 1e-13


class Asked(ChaCha20Source):
    """Draws nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(bytes(32))
        self.size = 0.0

    def discrete_gaussian(self, size: int, *, std: float) -> NDArray[np.int64]:
        self.size = std
        return np.zeros(size, np.int64)

    def discrete_laplace(self, size: int, *, scale: int) -> NDArray[np.int64]:
        self.size = scale
        return np.zeros(size, np.int64)


def drawn_for(name: str, multiplier: float, steps: float) -> float:
    """How large the noise is, in steps, that a mechanism draws."""
    source = Asked()
    value = Clipped(value=np.zeros(1, np.int64), bound=1.0, norm=1 if name == "laplace" else 2, steps=steps)
    Mechanism(name=name, multiplier=multiplier).release(value, source)
    return source.size


def discrete_hockey_stick(name: str, size: float, shift: int, rate: float = 1.0) -> NDArray[np.float64]:
    """max(0, P - e^ε Q), summed: Q is the noise around 0, P the noise around the shift, at a rate."""
    reach = int(60 * size) + shift
    k = np.arange(-reach, reach + 1)

    def weights(x: NDArray) -> NDArray[np.float64]:
        found = np.exp(-np.abs(x) / size) if name == "laplace" else np.exp(-(x**2) / (2 * size**2))
        return found / found.sum()

    zero, moved = weights(k.astype(float)), weights((k - shift).astype(float))
    mixed = rate * moved + (1 - rate) * zero
    return np.array([np.maximum(mixed - np.exp(e) * zero, 0).sum() for e in EPSILONS])


def real_hockey_stick(name: str, size: float, shift: int, rate: float = 1.0) -> NDArray[np.float64]:
    """The same of real noise, where the loss passes ε once: above a value, as it grows with the value."""
    law = (stats.laplace if name == "laplace" else stats.norm)(scale=size)
    found = []
    for epsilon in EPSILONS:
        # P > e^ε Q where the ratio of the shifted to the unshifted density is over this.
        over = (np.exp(epsilon) - (1 - rate)) / rate
        if over <= 0:
            found.append(1 - np.exp(epsilon))
            continue
        if name == "laplace":
            at = (size * math.log(over) + shift) / 2
            cut = -np.inf if at <= 0 and math.log(over) < -shift / size else np.inf if at > shift else at
        else:
            cut = size**2 * math.log(over) / shift + shift / 2
        above, moved = law.sf(cut), law.sf(cut - shift)
        found.append(max(0.0, rate * moved + (1 - rate) * above - np.exp(epsilon) * above))
    return np.array(found)


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize("shift", [1, 3, 40])
@pytest.mark.parametrize("multiplier", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_discrete_noise_tells_no_more_than_real_noise(
    name: str, multiplier: float, shift: int, rate: float
) -> None:
    """On a grid that is coarse enough to show a difference: the bound is 40 steps, not 2^40."""
    planned = multiplier * 40
    discrete = discrete_hockey_stick(name, drawn_for(name, multiplier, 40.0), shift, rate)
    assert (discrete <= real_hockey_stick(name, planned, shift, rate) + ROUNDING).all()
    # Noise that is two thirds as large does tell more, wherever there is anything to tell.
    short = discrete_hockey_stick(name, planned * 2 / 3, shift, rate)
    assert (short > real_hockey_stick(name, planned, shift, rate) + ROUNDING).any()


def test_without_the_room_discrete_laplace_noise_would_tell_more() -> None:
    """Of the same scale, its divergence is a chord over the real one's curve between losses on its grid."""
    discrete, real = discrete_hockey_stick("laplace", 12.0, 40), real_hockey_stick("laplace", 12.0, 40)
    assert (discrete > real + 1e-4).any()


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("multiplier", [1e-30, 1e-3, 0.7, (2**40 + 7) / 2**40, 5000.1, 1e4])
def test_the_room_is_what_the_proofs_ask_for_and_nothing_beside_the_noise(
    name: str, multiplier: float
) -> None:
    """Compared as rationals: floats of this size do not hold a square and 36."""
    planned, drawn = Fraction(multiplier) * STEPS, Fraction(drawn_for(name, multiplier, STEPS))
    assert drawn >= planned + 1 if name == "laplace" else drawn**2 >= planned**2 + 36
    assert drawn <= planned + 10
