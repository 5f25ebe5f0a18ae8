"""The plan that hides an example in steps that come in phases, each with a rate and a noise of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.accountant import falls_steadily, renyi
from privacy.accounting.base_plan import Accountant, check_epsilon, with_least_noise
from privacy.accounting.mixed_steps import Steps, epsilon_of_mixed, epsilon_of_mixed_by_order
from privacy.accounting.sampled_plan import SampledPlan, SampledUnit, make_sampled_plan
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism

_LARGE = 500.0  # above it e^x - 1 is e^x to the last bit, and near the end of float64


@dataclass(frozen=True, kw_only=True)
class PhasedPlan(SampledPlan):
    """A site's local steps in phases, one after another: ``lengths`` of them, each at its rate and noise.

    Guarantee: as of a ``SampledPlan``, if the run's step t, counted from 0 over all that was charged, draws
    its Poisson sample at the rate, and has noise of the multiplier, of the phase that t falls in, or a
    lower rate and more noise. Which phase a step is in follows from that count alone, and from nothing
    that was released: so the steps are a composition that is fixed beforehand, and its ε is of just that.

    ``multipliers`` are in clipping norms, as ``mechanism``'s is, which has the least of them, and
    ``sampling_rate`` is the highest: whoever takes the plan for one of equal steps finds no less ε.
    Raises PlanError for phases that are not so.

    Source: Dwork et al. 2010 for adaptive composition; Koskela et al. 2020 (arXiv:1906.03049), section 6,
    of mechanisms that differ.
    """

    lengths: tuple[int, ...]
    rates: tuple[float, ...]
    multipliers: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.lengths) == len(self.rates) == len(self.multipliers):
            raise PlanError("expected lengths, rates and multipliers, one of each for every phase")
        if not all(
            length >= 1 and rate > 0.0 for length, rate in zip(self.lengths, self.rates, strict=True)
        ):
            raise PlanError(f"expected phases of steps, got lengths={self.lengths}, rates={self.rates}")
        if sum(self.lengths) != self.steps or max(self.rates) != self.sampling_rate:
            raise PlanError(
                f"expected phases of steps={self.steps} at sampling_rate={self.sampling_rate} at most, got "
                f"lengths={self.lengths}, rates={self.rates}"
            )
        if self.mechanism.name != "gaussian" or min(self.multipliers) != self.mechanism.multiplier:
            raise PlanError(
                f"expected Gaussian noise of {min(self.multipliers)}, the least of all phases, got "
                f"{self.mechanism}"
            )

    @property
    def phases(self) -> tuple[SampledPlan, ...]:
        """Each phase's steps as a plan of their own."""
        return tuple(
            _plain(self, steps=length, rate=rate, multiplier=multiplier)
            for length, rate, multiplier in zip(self.lengths, self.rates, self.multipliers, strict=True)
        )

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in each coordinate of a sum, in the phase with the most."""
        return max(self.multipliers) * self.clipping_norm

    @property
    def chance_of_being_drawn(self) -> float:
        if self.sampling_rate == 1.0:
            return 1.0
        missed = sum(n * math.log1p(-rate) for n, rate in zip(self.lengths, self.rates, strict=True))
        return -math.expm1(missed)

    @property
    def accountants(self) -> tuple[Accountant, ...]:
        return ("pld", "rdp")

    def steps_from(self, first: int, steps: int) -> SampledPlan:
        """The rate and the noise of so many steps from step ``first`` on, counted from 0 over the run.

        Where they are in two phases, as after a round that was repeated, it is the lower rate and the
        larger noise: that is no less private than either. Raises PlanError for steps that are not planned.
        """
        if first < 0 or steps < 1 or first + steps > self.steps:
            raise PlanError(f"expected some of steps={self.steps}, got {steps} from step {first} on")
        ends = np.cumsum(self.lengths)
        at = range(
            int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, first + steps)) + 1
        )
        return _plain(
            self,
            steps=steps,
            rate=min(self.rates[phase] for phase in at),
            multiplier=max(self.multipliers[phase] for phase in at),
        )

    def noise_of_sum(self, weights: NDArray[np.float64]) -> float:
        each = np.repeat(self.multipliers, self.lengths) * self.clipping_norm
        return float(np.linalg.norm(each * weights))

    def draws_if_ended(self, steps: int) -> int:
        # Steps cost differently, and what is given back must not depend on an accountant's last digits.
        return self.steps if steps else 0

    def first_steps(self, steps: int) -> tuple[Steps, ...]:
        """The first ``steps`` steps as the accountants take them, those that are alike together."""
        found, left = dict[tuple[float, float], int](), steps
        for length, rate, multiplier in zip(self.lengths, self.rates, self.multipliers, strict=True):
            taken = min(length, left)
            left -= taken
            if taken:
                found[multiplier, rate] = found.get((multiplier, rate), 0) + taken
        return tuple(
            Steps(
                mechanism=Mechanism(name="gaussian", multiplier=multiplier), sampling_rate=rate, count=count
            )
            for (multiplier, rate), count in found.items()
        )

    def renyi_of(self, order: int) -> float:
        return sum(
            kind.count * renyi(mechanism=kind.mechanism, sampling_rate=kind.sampling_rate, order=order)
            for kind in self.first_steps(self.steps)
        )

    def _spent(self, steps: int) -> float:
        return epsilon_of_mixed(
            self.first_steps(steps), delta=self.delta, horizon=self.first_steps(self.steps)
        )

    def _spent_by(self, accountant: Accountant) -> float:
        if accountant == "pld":
            return self.epsilon
        return epsilon_of_mixed_by_order(self.first_steps(self.steps), delta=self.delta)


@dataclass(frozen=True, kw_only=True)
class PhaseToPlan:
    """``steps`` local steps of an expected batch, and their share of the loss; None for equal noise.

    ``examples`` is of how many they draw, where that is not what all phases draw of.
    """

    steps: int
    expected_batch_size: int
    share: float | None = None
    examples: int | None = None


def make_phased_plan(
    phases: Sequence[PhaseToPlan],
    *,
    epsilon: float,
    delta: float,
    clipping_norm: float,
    examples: int,
    near: float = 1.0,
    unit: SampledUnit = "example",
) -> PhasedPlan:
    """Find the least Gaussian noise whose ε over the steps of all phases is at most ``epsilon``.

    Without shares all phases have one multiplier. A phase with share s has the noise with which s of Σ T ·
    ln(1 + q² (e^(1/σ²) − 1)) is its own, the sum of T steps' Rényi divergences of order 2 at rate q: by the
    central limit theorem many steps are as private as one Gaussian release whose squared μ is that sum, so
    that these parts add up to the whole, and no ε of parts does. ``epsilon`` itself is of the composition.
    Raises PlanError as ``make_sampled_plan`` does.

    Source: Bu et al. 2020 (arXiv:1911.11607), theorem 5, for μ.
    """
    check_epsilon(epsilon)
    rates = [
        make_sampled_plan(
            mechanism="none",
            epsilon=epsilon,
            delta=delta,
            clipping_norm=clipping_norm,
            expected_batch_size=phase.expected_batch_size,
            examples=phase.examples or examples,
            steps=phase.steps,
            unit=unit,
        ).sampling_rate
        for phase in phases
    ]
    shares = [phase.share for phase in phases]

    def noisy(multiplier: float) -> PhasedPlan:
        multipliers = [multiplier] * len(phases)
        first = shares[0]
        if first is not None:
            whole = phases[0].steps * _divergence(multiplier, rates[0]) / first
            multipliers[1:] = [
                _multiplier(whole * share / phase.steps, rate)
                for phase, rate, share in zip(phases[1:], rates[1:], shares[1:], strict=True)
                if share is not None
            ]
        return PhasedPlan(
            mechanism=Mechanism(name="gaussian", multiplier=min(multipliers)),
            clipping_norm=clipping_norm,
            sampling_rate=max(rates),
            steps=sum(phase.steps for phase in phases),
            delta=delta,
            lengths=tuple(phase.steps for phase in phases),
            rates=tuple(rates),
            multipliers=tuple(multipliers),
            unit=unit,
        )

    some = noisy(1.0)
    if delta >= some.chance_of_being_drawn:
        raise PlanError(
            f"expected delta < {some.chance_of_being_drawn:.3g}, the chance that an example is drawn at "
            f"all in steps={some.steps}, got delta={delta}: noise would protect nobody; lower privacy.delta"
        )
    steady = falls_steadily(steps=some.steps, delta=delta)
    return with_least_noise(noisy, epsilon=epsilon, near=near if steady else 1.0)


def _divergence(multiplier: float, rate: float) -> float:
    """The Rényi divergence of order 2 of a step: ln(1 + q² (e^(1/σ²) − 1)), in nats."""
    inverse = 1.0 / multiplier**2
    if inverse > _LARGE:
        return float(np.logaddexp(0.0, 2.0 * math.log(rate) + inverse))
    return math.log1p(rate**2 * math.expm1(inverse))


def _multiplier(divergence: float, rate: float) -> float:
    """The multiplier of that divergence."""
    if divergence > _LARGE:
        inverse = divergence - 2.0 * math.log(rate)
    else:
        inverse = math.log1p(math.expm1(divergence) / rate**2)
    return 1.0 / math.sqrt(inverse)


def _plain(plan: PhasedPlan, *, steps: int, rate: float, multiplier: float) -> SampledPlan:
    return SampledPlan(
        mechanism=Mechanism(name="gaussian", multiplier=multiplier),
        clipping_norm=plan.clipping_norm,
        sampling_rate=rate,
        steps=steps,
        delta=plan.delta,
        unit=plan.unit,
    )


def phases_of(plan: object) -> tuple[SampledPlan, ...]:
    """A plan's phases, each as a plan of its own; none of a plan whose steps are alike."""
    return plan.phases if isinstance(plan, PhasedPlan) else ()
