"""The plan of steps that draw from several sources, each at a rate of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PlanError

if TYPE_CHECKING:
    from privacy.mechanisms.rng import NoiseSource


@dataclass(frozen=True, kw_only=True)
class Source:
    """So many examples, each of which a step draws with the probability ``rate``."""

    examples: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class MixedPlan(SampledPlan):
    """A site's local steps on a mix: its examples lie source by source, in this order.

    Guarantee: a ``SampledPlan``'s, for each example of each source, as no source has a rate above
    ``sampling_rate``; that is what a ledger charges. An example that is drawn at a lower rate has the
    smaller ε of ``of_source``: a sample at rate q' < q is one at rate q of which each example stays with
    probability q'/q, and by joint convexity no hockey-stick divergence grows by that. Raises PlanError for
    a rate that is none, or above ``sampling_rate``.

    Source: Balle, Barthe and Gaboardi 2018 (arXiv:1807.01647), theorem 2, advanced joint convexity.
    """

    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for source in self.sources:
            if not 0.0 < source.rate <= self.sampling_rate:
                raise PlanError(
                    f"expected 0 < rate <= sampling_rate={self.sampling_rate!r} of each source, got "
                    f"rate={source.rate!r}"
                )

    def of_source(self, number: int) -> SampledPlan:
        """What the steps are to an example of one source, counted from 0: a plan at its own rate."""
        own = {field.name: getattr(self, field.name) for field in fields(SampledPlan) if field.init}
        return replace(SampledPlan(**own), sampling_rate=self.sources[number].rate)

    def draw(self, source: NoiseSource, examples: int) -> NDArray[np.int64]:
        """Who is in a step's sample: each source's examples by its own rate."""
        if examples != sum(one.examples for one in self.sources):
            raise PlanError(
                f"expected {sum(one.examples for one in self.sources)} examples in all sources together, "
                f"got {examples}"
            )
        found, begin = [np.empty(0, np.int64)], 0
        for one in self.sources:
            found.append(begin + source.poisson_sample(one.examples, rate=one.rate))
            begin += one.examples
        return np.concatenate(found)


def mixed_plan(plan: SampledPlan, sources: tuple[Source, ...]) -> MixedPlan:
    """The same steps, drawn from ``sources``. Raises PlanError for a rate above the plan's."""
    own = {field.name: getattr(plan, field.name) for field in fields(SampledPlan) if field.init}
    return MixedPlan(**own, sources=sources)
