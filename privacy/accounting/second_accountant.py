"""A second accountant, by numerical integration alone: what the first one says is checked against it.

It shares nothing with ``privacy.accounting.accountant`` but the mechanism's name and multiplier: no closed
form, no bound on a moment, not dp-accounting. Everything starts from the noise's distribution on one
coordinate. It knows the mechanisms on real numbers; ``privacy.accounting.skellam_check`` is its like for
integers.

What it reads was written by whom it checks. So it computes on 2^24 points at most, which is some seconds,
and gives up on what would take more: noise so little, over so many steps, that ε is in the hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len  # type: ignore[import-untyped]
from scipy.special import ndtr  # type: ignore[import-untyped]

from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism

Floats = NDArray[np.float64]

LEAST_DELTA = 1e-9  # float noise drowns what is below
_REACH = 12.0  # normal deviations that are looked at: beyond them lies a mass of 4e-33
_LAPLACE_REACH = 80.0  # scales, for the same
_CELLS = 2**22  # at most, of one step
_POINTS = 2**24  # at most, of a quadrature and of all steps' losses
_NEGLIGIBLE = 1e-6  # ε that is no more than its own bound on the sum of all losses
_BLOCK = 2**14  # panels that are looked at together
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def renyi_by_quadrature(*, mechanism: Mechanism, sampling_rate: float, order: int) -> float:
    """Rényi divergence of one Poisson-subsampled step in nats, the larger of adding and of removing.

    By Gauss-Legendre panels on the densities, to a relative 1e-7 or an absolute 1e-12 for multipliers from
    0.1 up and orders up to 256. Raises PlanError without noise, for a rate outside (0, 1], and for less
    noise than 2^24 points resolve.

    Source: the definition (Mironov 2017, arXiv:1702.07476, definition 3).
    """
    noise = _noise(mechanism, sampling_rate)
    log_moments = [-math.inf, -math.inf]
    for x, log_weights in _panels(*noise.panels(order)):
        unshifted, shifted = noise.log_density(x), noise.log_density(x - 1.0)
        mixed = shifted
        if sampling_rate < 1.0:
            mixed = np.logaddexp(math.log1p(-sampling_rate) + unshifted, math.log(sampling_rate) + shifted)
        log_moments = [
            np.logaddexp(found, np.logaddexp.reduce(log_weights + order * p + (1 - order) * q))
            for found, p, q in zip(log_moments, (mixed, unshifted), (unshifted, mixed), strict=True)
        ]
    return max(0.0, float(max(log_moments))) / (order - 1)


def epsilon_by_fft(*, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` of ``steps`` Poisson-subsampled steps: the larger of adding's and of removing's.

    An upper bound, less than 1 % or 0.0001 above the exact value: each step's privacy loss is put on a grid
    that dominates it, composed by a fast Fourier transform, and what is cut off is added to δ. An ε beyond
    float64's e^ε, about 700, may come out infinite. Float noise is near 1e-11, so ``delta`` must be 1e-9 or
    more: raises PlanError for a smaller one, where all steps' losses would take more than 2^24 points, and
    as above.

    Source: Koskela et al. 2020 (arXiv:1906.03049) for the transform; Doroshenko et al. 2022
    (arXiv:2207.04380), section 4, for the grid.
    """
    noise = _noise(mechanism, sampling_rate)
    if not LEAST_DELTA <= delta < 1.0:
        raise PlanError(f"expected 1e-9 <= delta < 1, got delta={delta}")
    if steps * noise.furthest <= _NEGLIGIBLE:
        return steps * noise.furthest  # no sum of losses is larger; float64 may see none
    # Splitting a loss over two grid points adds at most width²/4 to a step's variance. So the width is
    # small beside the loss's own deviation, which √(divergence of order 2) is near when it is small.
    spread = math.sqrt(renyi_by_quadrature(mechanism=mechanism, sampling_rate=sampling_rate, order=2))
    width = max(min(0.002, 0.02 / math.sqrt(steps), 0.1 * spread), 2e-6)
    edges, unshifted, mixed = _cells(noise, sampling_rate, width)
    removing = _on_grid(edges, mixed, unshifted)
    adding = _on_grid(-edges[::-1], unshifted[::-1], mixed[::-1])
    return max(_epsilon(((losses, steps),), delta=delta) for losses in (removing, adding))


class Part(NamedTuple):
    """So many equal steps of a composition."""

    mechanism: Mechanism
    sampling_rate: float
    steps: int


def epsilon_of_parts(parts: Sequence[Part], *, delta: float) -> float:
    """ε at ``delta`` of Poisson-subsampled steps with Gaussian noise that differ, as ``epsilon_by_fft``.

    All are put on the grid that the finest of them wants. Raises PlanError as there, and for other noise.
    """
    if any(part.mechanism.name != "gaussian" for part in parts):
        raise PlanError("expected Gaussian noise in all steps of a composition of steps that differ")
    if not LEAST_DELTA <= delta < 1.0:
        raise PlanError(f"expected 1e-9 <= delta < 1, got delta={delta}")
    total = sum(part.steps for part in parts)
    noises = [_noise(part.mechanism, part.sampling_rate) for part in parts]
    most = sum(part.steps * noise.furthest for part, noise in zip(parts, noises, strict=True))
    if most <= _NEGLIGIBLE:
        return most
    spreads = [
        math.sqrt(renyi_by_quadrature(mechanism=part.mechanism, sampling_rate=part.sampling_rate, order=2))
        for part in parts
    ]
    width = max(min(0.002, 0.02 / math.sqrt(total), 0.1 * min(spreads)), 2e-6)
    width = max(width, *(2.0 * noise.furthest / _CELLS for noise in noises))
    removing, adding = list[tuple[_Losses, int]](), list[tuple[_Losses, int]]()
    for part, noise in zip(parts, noises, strict=True):
        edges, unshifted, mixed = _cells(noise, part.sampling_rate, width, through_end=False)
        removing.append((_on_grid(edges, mixed, unshifted), part.steps))
        adding.append((_on_grid(-edges[::-1], unshifted[::-1], mixed[::-1]), part.steps))
    return max(_epsilon(removing, delta=delta), _epsilon(adding, delta=delta))


class _Losses(NamedTuple):
    """Masses float64[k] of the losses ``width · (first + i)``."""

    width: float
    first: int
    masses: Floats


class _Noise(Protocol):
    """Noise on one coordinate, symmetric about 0, against the same noise shifted by 1."""

    @property
    def furthest(self) -> float:
        """ln(shifted/unshifted) at the ends of what is looked at: this much, above 0 and below."""
        ...

    def panels(self, order: int) -> tuple[tuple[float, ...], float]:
        """Where the quadrature for an order is cut, and how wide its panels may be."""
        ...

    def log_density(self, x: Floats) -> Floats: ...

    def tail(self, x: Floats) -> Floats:
        """The mass above ``x`` >= 0, and so that below -``x``."""
        ...

    def value_at(self, ratio: Floats) -> Floats:
        """The value at which ln(shifted/unshifted) is ``ratio``; infinite beyond what there is."""
        ...


@dataclass(frozen=True)
class _Gaussian:
    scale: float

    @property
    def furthest(self) -> float:
        return (0.5 / self.scale + _REACH) / self.scale

    def panels(self, order: int) -> tuple[tuple[float, ...], float]:
        # The order moves the integrand's peak by as many sensitivities, either way; a panel resolves both
        # the bell (scale) and the bend of the mixture's logarithm (scale²).
        reach = order + _REACH * self.scale
        return (-reach, reach), min(self.scale, self.scale * self.scale) / 2

    def log_density(self, x: Floats) -> Floats:
        return np.asarray(-0.5 * (x / self.scale) ** 2 - math.log(self.scale * math.sqrt(2 * math.pi)))

    def tail(self, x: Floats) -> Floats:
        return np.asarray(ndtr(-x / self.scale))

    def value_at(self, ratio: Floats) -> Floats:
        return ratio * self.scale * self.scale + 0.5


@dataclass(frozen=True)
class _Laplace:
    scale: float

    @property
    def furthest(self) -> float:
        return 1.0 / self.scale

    def panels(self, order: int) -> tuple[tuple[float, ...], float]:
        reach = _LAPLACE_REACH * self.scale
        return (-reach, 0.0, 1.0, 1.0 + reach), 4 * self.scale / order  # kinks at 0 and 1

    def log_density(self, x: Floats) -> Floats:
        return np.asarray(-np.abs(x) / self.scale - math.log(2 * self.scale))

    def tail(self, x: Floats) -> Floats:
        return np.asarray(0.5 * np.exp(-x / self.scale))

    def value_at(self, ratio: Floats) -> Floats:
        inside = np.abs(ratio) < self.furthest
        return np.where(inside, (ratio * self.scale + 1.0) / 2, np.copysign(np.inf, ratio))


_NOISES: dict[str, type[_Gaussian | _Laplace]] = {"gaussian": _Gaussian, "laplace": _Laplace}


def _noise(mechanism: Mechanism, sampling_rate: float) -> _Noise:
    if mechanism.name not in _NOISES:
        raise PlanError(f"expected mechanism 'gaussian' or 'laplace', got {mechanism.name!r}")
    if not 0.0 < sampling_rate <= 1.0:
        raise PlanError(f"expected 0 < sampling_rate <= 1, got sampling_rate={sampling_rate}")
    return _NOISES[mechanism.name](mechanism.multiplier)


def _panels(ends: tuple[float, ...], width: float) -> Iterator[tuple[Floats, Floats]]:
    """Nodes and logarithms of weights of Gauss-Legendre panels, none wider than ``width``, block by block.

    Raises PlanError for too many.
    """
    if not width * _POINTS > (ends[-1] - ends[0]) * len(_NODES):
        raise PlanError("so little noise that a quadrature would take more than 2^24 points")
    for a, b in pairwise(ends):
        cuts = np.linspace(a, b, 1 + max(1, math.ceil((b - a) / width)))
        for start in range(0, len(cuts) - 1, _BLOCK):
            block = cuts[start : start + _BLOCK + 1]
            half = np.diff(block)[:, None] / 2
            yield (block[:-1, None] + half * (1.0 + _NODES)).ravel(), np.log(half * _WEIGHTS).ravel()


def _masses(noise: _Noise, cuts: Floats) -> Floats:
    """The mass between neighbouring ``cuts``, each side of 0 counted from its own end: tails stay exact."""
    below = noise.tail(np.maximum(-cuts, 0.0))
    above = noise.tail(np.maximum(cuts, 0.0))
    return np.diff(below) - np.diff(above)


def _cells(
    noise: _Noise, rate: float, width: float, *, through_end: bool = True
) -> tuple[Floats, Floats, Floats]:
    """A grid of ln(mixture/unshifted), and in each cell the mass of the unshifted noise and of the mixture.

    It goes through the largest loss, or is of just this width.

    That loss grows with the noise's value, so a cell of losses is an interval of values. Laplace noise
    below 0 or above 1 has one loss each, the least and the largest: those atoms fall in the end cells.
    """
    unsampled = math.log1p(-rate) if rate < 1.0 else -math.inf
    low, high = np.logaddexp(unsampled, math.log(rate) + np.array([-noise.furthest, noise.furthest]))
    if not low < 0.0 < high:
        raise PlanError("so much noise that float64 sees none of a step's losses")
    # Where losses reach far, so does ε, and a wider cell is as good.
    width = max(width, (high - low) / _CELLS)
    if through_end:
        width = high / math.ceil(high / width)  # so that the largest loss, Laplace's atom, lies on the grid
    edges = width * np.arange(math.floor(low / width), math.ceil(high / width) + 1)
    # Undo the mixing: e^loss = 1 - rate + rate · e^ratio. Below ln(1 - rate) there is no such ratio.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(edges < 500.0, np.log1p(np.expm1(edges) / rate), edges - math.log(rate))
    ratio = np.where(np.isnan(ratio), -np.inf, ratio)
    cuts = noise.value_at(ratio)
    cuts[0], cuts[-1] = -np.inf, np.inf
    unshifted, shifted = _masses(noise, cuts), _masses(noise, cuts - 1.0)
    return edges, unshifted, (1.0 - rate) * unshifted + rate * shifted


def _on_grid(edges: Floats, upper: Floats, lower: Floats) -> _Losses:
    """The loss ln(upper/lower), each cell's mass split over its edges so that both its masses stay.

    Such a pair of distributions is at least as far apart, at every ε, as the one it was made from.
    """
    width = float(edges[1] - edges[0])
    right = np.clip((upper - lower * np.exp(edges[:-1])) / -math.expm1(-width), 0.0, upper)
    masses = np.zeros(len(edges))
    masses[:-1] += upper - right
    masses[1:] += right
    return _Losses(width=width, first=round(edges[0] / width), masses=masses)


def _epsilon(parts: Sequence[tuple[_Losses, int]], *, delta: float) -> float:
    """The least ε >= 0 at which the composed losses' hockey-stick divergence is ``delta`` at most.

    Each part is losses, all on one grid, and how many steps have them. Raises PlanError where the composed
    losses would take too many points.
    """
    cut_off = delta * 1e-4
    mass = cut_off / len(parts)
    low, high = (
        sum(_furthest(losses, steps=steps, mass=mass, sign=sign) for losses, steps in parts)
        for sign in (-1, 1)
    )
    if high - low >= _POINTS:
        total = sum(steps for _, steps in parts)
        raise PlanError(f"so large losses in steps={total} that all would take more than 2^24 points")
    size = next_fast_len(high - low + 1, real=True)
    # A sum outside the window wraps around. From below it only adds to δ; from above it hides
    # ``cut_off`` of mass, which is given back here.
    spectrum = np.ones(size // 2 + 1, np.complex128)
    for losses, steps in parts:
        folded = np.bincount(
            (losses.first + np.arange(len(losses.masses))) % size, weights=losses.masses, minlength=size
        )
        spectrum *= np.fft.rfft(folded) ** steps
    composed = np.fft.irfft(spectrum, size)
    at = np.arange(max(low, 0), high + 1)
    if not len(at):
        return 0.0
    masses = np.maximum(composed[at % size], 0.0)
    loss = parts[0][0].width * at
    # delta(ε) = Σ masses · (1 - e^(ε - loss)) over losses above ε, at each loss on the grid.
    above = np.cumsum(masses[::-1])[::-1]
    weighted = np.cumsum((masses * np.exp(-loss))[::-1])[::-1]
    allowed = delta - cut_off
    exceeding = np.flatnonzero(above - np.exp(loss) * weighted > allowed)
    if len(exceeding) == 0:
        return max(0.0, float(loss[0])) if at[0] > 0 else 0.0
    after = exceeding[-1] + 1  # between two grid points, delta(ε) is affine in e^ε
    return float(math.log((above[after] - allowed) / weighted[after]))


def _furthest(losses: _Losses, *, steps: int, mass: float, sign: int) -> int:
    """The grid point beyond which the sum of ``steps`` losses lies with probability ``mass`` at most.

    Source: Chernoff's bound, minimized over a few slopes: any of them is valid.
    """
    some = losses.masses > 0.0
    values = sign * losses.width * (losses.first + np.flatnonzero(some))
    logs = np.log(losses.masses[some])
    extreme = float(values.max()) * steps
    for slope in np.geomspace(0.1, 1e4, 26):
        log_moment = float(np.logaddexp.reduce(logs + slope * values))
        extreme = min(extreme, (steps * log_moment - math.log(mass)) / slope)
    return sign * math.ceil(extreme / losses.width)
