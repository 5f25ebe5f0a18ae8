"""From what was released to ε: privacy loss distributions, and Rényi orders beside them.

It knows noise on real numbers. What Skellam noise costs depends on a grid: see ``skellam_loss``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.composition import Losses, most_rounding
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism

if TYPE_CHECKING:
    import dp_accounting as dp

FoundT = TypeVar("FoundT")

# Privacy losses are rounded to a grid, upwards in ε: what that adds grows with steps · grid². This
# grid, in nats, adds under 0.1 % over this many steps; more steps get a finer one.
_GRID, _GRID_STEPS = 5e-3, 100
# The grid is also at most this part of a step's own loss, as a coarser one would add much to a small loss,
# unless the largest losses would then take more points than this.
_GRID_SPREAD, _GRID_POINTS = 0.25, 2000
# What a distribution may take, so that no numbers of a job cost more than a second and 60 MiB: points of
# one step's (12 µs each to build) and of all steps'. What has more gets a coarser grid, which rounds
# upwards too. 2^18 points hold 80 nats on the finest grid that steps ask for.
_STEP_POINTS, _COMPOSED_POINTS = 2**14, 2**18
# Above this a grid says little: whoever's losses reach over 2^18 such points has the bound by Rényi
# divergences, at an ε in the hundreds or more.
_GRID_MAX = 2.0**-4
# How often a grid is made coarser, each time by what it was found to be too fine by.
_COARSER = 4
# Rényi divergences are in closed form at integers. The last orders serve ε under 0.1.
RENYI_ORDERS = (*range(2, 65), 80, 96, 128, 160, 192, 256, 512, 1024)
# Rounding that adds a thousandth of δ moves ε by less than from one multiplier to the next, a thousandth.
_HARDLY = 1e-3
_ROUND_UP = 1e-10  # what the closed form of a Rényi divergence can be off by in float64, relatively


def training_event(*, mechanism: Mechanism, sampling_rate: float, steps: int) -> dp.DpEvent:
    """The event of ``steps`` steps, each on a fresh Poisson sample at ``sampling_rate``.

    Adjacency is zero-out: one example contributes or does not, and the rate is the same in both cases. Its
    privacy loss is that of adding or removing one (Abadi et al. 2016, arXiv:1607.00133). Replacing one by
    another costs more, which no ε here covers.
    """
    import dp_accounting as dp  # with scipy it takes a second to import

    step = dp.PoissonSampledDpEvent(sampling_rate, mechanism.event)
    return dp.SelfComposedDpEvent(step, steps)


@lru_cache(maxsize=4096)
def epsilon_by_pld(
    *, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float, horizon: int | None = None
) -> float:
    """ε at ``delta`` of a training by composing privacy loss distributions: an upper bound.

    ``horizon`` is the number of steps that the grid is chosen for, ``steps`` by default: values for one
    horizon grow with ``steps`` and share their preparation. Time and memory are bounded whatever the
    numbers are; where that leaves no distribution to compose, ε is by Rényi divergences.

    Source: Koskela et al. 2020 (arXiv:1906.03049), pessimistic discretization as in dp-accounting.
    """
    if not mechanism.protects:
        raise PlanError("a training without noise has no privacy loss distribution: ε is infinite")
    if steps == 0:
        return 0.0
    horizon = max(horizon or steps, steps)
    found = math.inf
    composable = _composable(mechanism, sampling_rate, horizon)
    if composable is not None:
        found = max(
            losses.epsilon(window, steps=steps, delta=delta)
            for losses, window in zip(*composable, strict=True)
        )
    if math.isfinite(found):
        return found
    # There is no distribution to compose, or δ is not above what floats add over so many steps.
    return _epsilon_by_order(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps, delta=delta)


def falls_steadily(*, steps: int, delta: float) -> bool:
    """Whether ε is known to fall as noise grows, so that one multiplier alone is the least that is enough.

    Elsewhere it is an upper bound all the same, but rounding is near ``delta``: that grows with the noise,
    goes up and down from one multiplier to the next, and ends where Rényi divergences take over.
    """
    return most_rounding(_COMPOSED_POINTS, steps=steps) <= _HARDLY * delta


def epsilon_by_rdp(*, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` by Rényi differential privacy: an upper bound, looser than by PLD.

    For Laplace noise it is at most ``epsilon_pure``, which needs no order. Raises PlanError without noise.

    Source: Mironov, Talwar and Zhang 2019 (arXiv:1908.10530), Theorem 4 for Gaussian noise.
    """
    if steps == 0:
        return 0.0
    if mechanism.name == "gaussian":
        from dp_accounting.rdp import RdpAccountant

        event = training_event(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps)
        return float(RdpAccountant().compose(event).get_epsilon(delta))
    return _epsilon_by_order(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps, delta=delta)


@lru_cache(maxsize=256)
def epsilon_by_prv(*, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` by Opacus' accountant: the upper end of its estimate, which is 0.01 to either side.

    It knows Gaussian noise on a Poisson sample only: raises PlanError for any other mechanism.

    Source: Gopi, Lee and Wutschitz 2021 (arXiv:2106.02848).
    """
    if mechanism.name != "gaussian":
        raise PlanError(f"the PRV accountant knows mechanism='gaussian' only, got {mechanism.name!r}")
    _check_rate(sampling_rate)
    if steps == 0:
        return 0.0
    from opacus.accountants import PRVAccountant  # it brings torch, which takes seconds to import

    accountant = PRVAccountant()
    accountant.history = [(mechanism.multiplier, sampling_rate, steps)]
    with np.errstate(divide="ignore"):  # it takes the logarithm of 0 at rate 1
        return float(accountant.get_epsilon(delta))


def epsilon_pure(*, mechanism: Mechanism, sampling_rate: float, steps: int) -> float:
    """ε at δ = 0, which Laplace noise alone has: no outcome's probability changes by more than e^ε.

    Each step's is ln(1 + q (e^(1/scale) - 1)) at rate q (Balle, Barthe and Gaboardi 2018,
    arXiv:1807.01647, Theorem 8). Raises PlanError for any other mechanism.
    """
    if mechanism.name != "laplace":
        raise PlanError(f"only mechanism='laplace' has an ε at δ = 0, got {mechanism.name!r}")
    _check_rate(sampling_rate)
    unsampled = math.log1p(-sampling_rate) if sampling_rate < 1.0 else -math.inf
    return steps * float(np.logaddexp(unsampled, math.log(sampling_rate) + 1.0 / mechanism.multiplier))


def epsilon_from_renyi(divergences: Mapping[int, float], *, delta: float) -> float:
    """ε at ``delta`` from the Rényi divergences, in nats by order, of all that was released.

    Source: Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), Proposition 12.
    """
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

    epsilon, _ = compute_epsilon(list(divergences), list(divergences.values()), delta)
    return float(epsilon)


def _epsilon_by_order(*, mechanism: Mechanism, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` by Rényi divergences in closed form, at integer orders: an upper bound."""
    spent = {
        order: steps * renyi(mechanism=mechanism, sampling_rate=sampling_rate, order=order)
        for order in RENYI_ORDERS
    }
    found = epsilon_from_renyi(spent, delta=delta)
    if mechanism.name != "laplace":
        return found
    return min(found, epsilon_pure(mechanism=mechanism, sampling_rate=sampling_rate, steps=steps))


@lru_cache(maxsize=4096)
def renyi(*, mechanism: Mechanism, sampling_rate: float, order: int) -> float:
    """Rényi divergence, in nats, of one Poisson-subsampled step at an integer ``order`` >= 2.

    It is an upper bound: it holds whether the example is added or removed, and however its L1 norm is
    spread over coordinates. It is computed to a relative 1e-10 and rounded up by as much. Raises
    PlanError for an order under 2, for a rate outside (0, 1], and without noise, where it is infinite.

    Source: Mironov, Talwar and Zhang 2019 (arXiv:1908.10530), section 3.3 and Theorem 5: the mixture
    against the unshifted noise is the larger direction, for any noise that an involution (x to s - x,
    here) swaps with its shift by s.
    """
    if order != int(order) or order < 2:
        raise PlanError(f"expected an integer Rényi order >= 2, got order={order}")
    _check_rate(sampling_rate)
    counts = np.arange(2, order + 1)
    logs = _log_excess_moments(mechanism, counts)
    logs = logs + _log_binomials(order) + counts * math.log(sampling_rate)
    # At rate 1 the factor (1 - rate)^(order - k) leaves k = order alone.
    logs = logs + (order - counts) * math.log1p(-sampling_rate) if sampling_rate < 1.0 else logs[-1:]
    excess = float(np.logaddexp.reduce(logs))  # ln(E[ratio^order] - 1): log1p(exp) keeps small ones exact
    return float(np.logaddexp(0.0, excess)) / (order - 1) * (1.0 + _ROUND_UP)


@lru_cache(maxsize=256)
def _log_binomials(order: int) -> NDArray[np.float64]:
    """float64[order - 1]: ln of the binomial coefficients of ``order`` over 2 and more."""
    return np.array([math.log(math.comb(order, k)) for k in range(2, order + 1)])


def _log_excess_moments(mechanism: Mechanism, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64[len(counts)]: ln(E[(shifted/unshifted)^k] - 1) under the unshifted noise, for each k >= 2.

    The moments of orders 0 and 1 are 1, so the binomial sum over the others of what exceeds 1 is all that
    exceeds 1: nothing cancels, even where the divergence is 1e-12.

    A shift s with Σ|s_i| = 1 over several coordinates multiplies their moments. ln of Laplace's moment is
    a log-sum-exp of functions affine in |s_i|, so convex, and it is 0 with slope 0 at 0: superadditive and
    growing. The product is largest when one coordinate carries the whole shift.
    """
    if not mechanism.protects:
        raise PlanError("a step without noise has an infinite Rényi divergence")
    if mechanism.name == "gaussian":
        exponent = counts * (counts - 1) / (2.0 * mechanism.multiplier**2)
        return np.asarray(exponent + np.log(-np.expm1(-exponent)))
    # E[ratio^k] = (k e^up + (k - 1) e^down) / (2k - 1), and k up + (k - 1) down = 0.
    up = (counts - 1) / mechanism.multiplier
    down = -counts / mechanism.multiplier
    near = counts * _exp_beyond_linear(np.minimum(up, 30.0)) + (counts - 1) * _exp_beyond_linear(down)
    far = up + np.log(counts + ((counts - 1) * np.exp(down) - 2 * counts + 1) * np.exp(-up))
    return np.asarray(np.where(up < 30.0, np.log(near), far) - np.log(2 * counts - 1))


def _exp_beyond_linear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(x) - 1 - x to a relative 1e-13, by its series near 0."""
    series = x * x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7)))))
    return np.where(np.abs(x) < 1e-2, series, np.expm1(x) - x)


def _check_rate(sampling_rate: float) -> None:
    if not 0.0 < sampling_rate <= 1.0:
        raise PlanError(f"expected 0 < sampling_rate <= 1, got sampling_rate={sampling_rate}")


def step_losses(mechanism: Mechanism, sampling_rate: float, grid: float) -> tuple[Losses, ...]:
    """The privacy losses of one step, of removing an example and of adding one, on a grid from above."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    build = pld.from_laplace_mechanism if mechanism.name == "laplace" else pld.from_gaussian_mechanism
    both = build(mechanism.multiplier, value_discretization_interval=grid, sampling_prob=sampling_rate)
    ways = (both._pmf_remove,) if both._symmetric else (both._pmf_remove, both._pmf_add)
    # dp-accounting lets no one ask how large a composition will be, and holds on to what floats leave in
    # the tails: so its steps are composed here.
    dense = [way.to_dense_pmf() for way in ways]
    return tuple(
        Losses(grid=grid, first=one._lower_loss, masses=np.asarray(one._probs), infinite=one._infinity_mass)
        for one in dense
    )


@lru_cache(maxsize=16)
def _composable(
    mechanism: Mechanism, sampling_rate: float, horizon: int
) -> tuple[tuple[Losses, ...], tuple[tuple[int, int], ...]] | None:
    """One step's losses, and the windows of ``horizon`` steps' sums, on the finest grid that they fit on.

    None where that would be too coarse to say much.
    """

    def on(grid: float) -> tuple[tuple[tuple[Losses, ...], tuple[tuple[int, int], ...]], int]:
        losses = step_losses(mechanism, sampling_rate, grid)
        windows = tuple(one.window(horizon) for one in losses)
        return (losses, windows), max(high - low + 1 for low, high in windows)

    return on_fitting_grid(on, grid=choose_grid(mechanism, sampling_rate, horizon))


def on_fitting_grid(on: Callable[[float], tuple[FoundT, int]], *, grid: float) -> FoundT | None:
    """What ``on`` makes on the finest grid from ``grid`` on that takes no more points than there may be.

    It says how many points what it makes takes. None where that grid would be too coarse to say much.
    """
    for _ in range(_COARSER):
        if grid > _GRID_MAX:
            return None
        found, points = on(grid)
        if points <= _COMPOSED_POINTS:
            return found
        grid *= 2.0 ** math.ceil(math.log2(points / _COMPOSED_POINTS))
    return None


def choose_grid(mechanism: Mechanism, sampling_rate: float, steps: int) -> float:
    """The grid halves each time that the number of steps grows fourfold, and until it resolves one step.

    It halves four times at most for the steps: beyond 25,600 of them ε is still an upper bound, only less
    tight. And a step's largest losses take ``_STEP_POINTS`` points at most.
    """
    for_steps = _GRID / min(max(1.0, math.sqrt(steps / _GRID_STEPS)), 16.0)
    # The divergence of order 2 is near the variance of a loss, where that is small.
    spread = math.sqrt(renyi(mechanism=mechanism, sampling_rate=sampling_rate, order=2))
    largest, _ = _furthest(mechanism, sampling_rate, deviations=6.0)
    for_loss = max(_GRID_SPREAD * spread, largest / _GRID_POINTS)
    wanted = float(_GRID / 2 ** max(0, math.ceil(math.log2(_GRID / min(for_steps, for_loss)))))
    return max(wanted, least_grid(mechanism, sampling_rate))


def least_grid(mechanism: Mechanism, sampling_rate: float) -> float:
    """The finest grid on which a step's losses take no more than ``_STEP_POINTS`` points."""
    # dp-accounting leaves out what lies 10 deviations away.
    return sum(_furthest(mechanism, sampling_rate, deviations=10.0)) / _STEP_POINTS


def _furthest(mechanism: Mechanism, sampling_rate: float, *, deviations: float) -> tuple[float, float]:
    """How far a step's losses reach above 0 and below it, for Gaussian noise of so many ``deviations``."""
    scale = mechanism.multiplier
    unmixed = 1.0 / scale if mechanism.name == "laplace" else (0.5 + deviations * scale) / scale**2
    above = max(0.0, float(np.logaddexp(0.0, math.log(sampling_rate) + unmixed)))
    return above, min(unmixed, -math.log1p(-sampling_rate)) if sampling_rate < 1.0 else unmixed
