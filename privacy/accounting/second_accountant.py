"""A second accountant, by numerical integration alone: what the first one says is checked against it.

It shares nothing with ``privacy.accounting.accountant`` but the mechanism's name and multiplier: no closed
form, no bound on a moment, not dp-accounting. Everything starts from the noise's distribution on one
coordinate. It knows the mechanisms on real numbers; ``privacy.accounting.skellam_check`` is its like for
integers.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr  # type: ignore[import-untyped]

from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism

Floats = NDArray[np.float64]

LEAST_DELTA = 1e-9  # float noise drowns what is below
_REACH = 12.0  # normal deviations that are looked at: beyond them lies a mass of 4e-33
_LAPLACE_REACH = 80.0  # scales, for the same
_CELLS = 2**22  # at most, of one step
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def renyi_by_quadrature(*, mechanism: Mechanism, sampling_rate: float, order: int) -> float:
    """Rényi divergence of one Poisson-subsampled step in nats, the larger of adding and of removing.

    By Gauss-Legendre panels on the densities, to a relative 1e-7 or an absolute 1e-12 for multipliers from
    0.1 up and orders up to 256. Raises PlanError without noise or for a rate outside (0, 1].

    Source: the definition (Mironov 2017, arXiv:1702.07476, definition 3).
    """
    _check(mechanism, sampling_rate)
    scale = mechanism.multiplier
    if mechanism.name == "gaussian":
        # The order moves the integrand's peak by as many sensitivities, either way; a panel resolves both
        # the bell (scale) and the bend of the mixture's logarithm (scale²).
        ends = np.array([-order - _REACH * scale, order + _REACH * scale])
        width = min(scale, scale**2) / 2
    else:
        ends = np.array(
            [-_LAPLACE_REACH * scale, 0.0, 1.0, 1.0 + _LAPLACE_REACH * scale]
        )  # kinks at 0 and 1
        width = 4 * scale / order
    x, log_weights = _panels(ends, width)
    unshifted, shifted = _log_density(mechanism, x), _log_density(mechanism, x - 1.0)
    mixed = shifted
    if sampling_rate < 1.0:
        mixed = np.logaddexp(math.log1p(-sampling_rate) + unshifted, math.log(sampling_rate) + shifted)
    log_moments = [
        np.logaddexp.reduce(log_weights + order * p + (1 - order) * q)
        for p, q in ((mixed, unshifted), (unshifted, mixed))
    ]
    return max(0.0, float(max(log_moments))) / (order - 1)


def epsilon_by_fft(*, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` of ``steps`` Poisson-subsampled steps: the larger of adding's and of removing's.

    An upper bound, less than 1 % or 0.0001 above the exact value: each step's privacy loss is put on a grid
    that dominates it, composed by a fast Fourier transform, and what is cut off is added to δ. An ε beyond
    float64's e^ε, about 700, may come out infinite. Float noise is near 1e-11, so ``delta`` must be 1e-9 or
    more: raises PlanError for a smaller one, and as above.

    Source: Koskela et al. 2020 (arXiv:1906.03049) for the transform; Doroshenko et al. 2022
    (arXiv:2207.04380), section 4, for the grid.
    """
    _check(mechanism, sampling_rate)
    if not LEAST_DELTA <= delta < 1.0:
        raise PlanError(f"expected 1e-9 <= delta < 1, got delta={delta}")
    if steps == 0:
        return 0.0
    # Splitting a loss over two grid points adds at most width²/4 to a step's variance. So the width is
    # small beside the loss's own deviation, which √(divergence of order 2) is near when it is small.
    spread = math.sqrt(renyi_by_quadrature(mechanism=mechanism, sampling_rate=sampling_rate, order=2))
    width = max(min(0.002, 0.02 / math.sqrt(steps), 0.1 * spread), 2e-6)
    edges, unshifted, mixed = _cells(mechanism, sampling_rate, width)
    removing = _on_grid(edges, mixed, unshifted)
    adding = _on_grid(-edges[::-1], unshifted[::-1], mixed[::-1])
    return max(_epsilon(losses, steps=steps, delta=delta) for losses in (removing, adding))


class _Losses(NamedTuple):
    """Masses float64[k] of the losses ``width · (first + i)``."""

    width: float
    first: int
    masses: Floats


def _check(mechanism: Mechanism, sampling_rate: float) -> None:
    if mechanism.name not in ("gaussian", "laplace"):
        raise PlanError(f"expected mechanism 'gaussian' or 'laplace', got {mechanism.name!r}")
    if not 0.0 < sampling_rate <= 1.0:
        raise PlanError(f"expected 0 < sampling_rate <= 1, got sampling_rate={sampling_rate}")


def _panels(ends: Floats, width: float) -> tuple[Floats, Floats]:
    """Nodes and logarithms of weights of Gauss-Legendre panels, none wider than ``width``."""
    cuts = [np.linspace(a, b, 1 + max(1, math.ceil((b - a) / width))) for a, b in pairwise(ends)]
    low = np.concatenate([cut[:-1] for cut in cuts])[:, None]
    half = np.concatenate([np.diff(cut) for cut in cuts])[:, None] / 2
    return (low + half * (1.0 + _NODES)).ravel(), np.log(half * _WEIGHTS).ravel()


def _log_density(mechanism: Mechanism, x: Floats) -> Floats:
    scale = mechanism.multiplier
    if mechanism.name == "gaussian":
        return np.asarray(-0.5 * (x / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi)))
    return np.asarray(-np.abs(x) / scale - math.log(2 * scale))


def _tail(mechanism: Mechanism, x: Floats) -> Floats:
    """The mass above ``x`` >= 0, and so that below -``x``: both kinds of noise are symmetric."""
    scaled = x / mechanism.multiplier
    return np.asarray(ndtr(-scaled) if mechanism.name == "gaussian" else 0.5 * np.exp(-scaled))


def _masses(mechanism: Mechanism, cuts: Floats) -> Floats:
    """The mass between neighbouring ``cuts``, each side of 0 counted from its own end: tails stay exact."""
    below = _tail(mechanism, np.maximum(-cuts, 0.0))
    above = _tail(mechanism, np.maximum(cuts, 0.0))
    return np.diff(below) - np.diff(above)


def _cells(mechanism: Mechanism, rate: float, width: float) -> tuple[Floats, Floats, Floats]:
    """A grid of ln(mixture/unshifted), and in each cell the mass of the unshifted noise and of the mixture.

    That loss grows with the noise's value, so a cell of losses is an interval of values. Laplace noise
    below 0 or above 1 has one loss each, the least and the largest: those atoms fall in the end cells.
    """
    scale = mechanism.multiplier
    # ln(shifted/unshifted) at the ends of what is looked at.
    furthest = (0.5 + _REACH * scale) / scale**2 if mechanism.name == "gaussian" else 1.0 / scale
    unsampled = math.log1p(-rate) if rate < 1.0 else -math.inf
    low, high = np.logaddexp(unsampled, math.log(rate) + np.array([-furthest, furthest]))
    # Where losses reach far, so does ε, and a wider cell is as good.
    width = max(width, (high - low) / _CELLS)
    width = high / math.ceil(high / width)  # so that the largest loss, Laplace's atom, lies on the grid
    edges = width * np.arange(math.floor(low / width), math.ceil(high / width) + 1)
    # Undo the mixing: e^loss = 1 - rate + rate · e^ratio. Below ln(1 - rate) there is no such ratio.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(edges < 500.0, np.log1p(np.expm1(edges) / rate), edges - math.log(rate))
    ratio = np.where(np.isnan(ratio), -np.inf, ratio)
    if mechanism.name == "gaussian":
        cuts = ratio * scale**2 + 0.5
    else:
        inside = np.abs(ratio) < furthest
        cuts = np.where(inside, (ratio * scale + 1.0) / 2, np.copysign(np.inf, ratio))
    cuts[0], cuts[-1] = -np.inf, np.inf
    unshifted, shifted = _masses(mechanism, cuts), _masses(mechanism, cuts - 1.0)
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


def _epsilon(losses: _Losses, *, steps: int, delta: float) -> float:
    """The least ε >= 0 at which the composed losses' hockey-stick divergence is ``delta`` at most."""
    cut_off = delta * 1e-4
    low, high = (_furthest(losses, steps=steps, mass=cut_off, sign=sign) for sign in (-1, 1))
    size = high - low + 1
    # A sum outside the window wraps around. From below it only adds to δ; from above it hides
    # ``cut_off`` of mass, which is given back here.
    folded = np.bincount(
        (losses.first + np.arange(len(losses.masses))) % size, weights=losses.masses, minlength=size
    )
    composed = np.fft.irfft(np.fft.rfft(folded) ** steps, size)
    at = np.arange(max(low, 0), high + 1)
    if not len(at):
        return 0.0
    masses = np.maximum(composed[at % size], 0.0)
    loss = losses.width * at
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
