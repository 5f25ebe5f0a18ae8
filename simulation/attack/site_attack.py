"""An attack on a run that hides whole sites: how far the released sums show directions that some sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.plan import SitePlan
from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.audit.gaussian_pair import separation_bound
from privacy.audit.roc import Rates, rate_scores
from privacy.errors import AuditError, UserError
from protocol.job.job import Job
from protocol.job.layout import AdapterLayout
from protocol.job.strategy import Strategy
from protocol.sums.update_encoding import plan_for_site
from runs.progress import Progress, Silence
from simulation.attack.attack_bounds import Bound, multiplier_with
from simulation.attack.attackable import check_canaries_fit, rounds_add_up
from simulation.attack.attacked_run import attacked_run
from simulation.attack.finding import ERROR, Claim
from simulation.attack.observed import moved
from simulation.attack.provenance import Tracing
from simulation.attack.site_canaries import DirectionTrainer, SiteCanaries
from simulation.simulated_federation import World

_SILENCE = Silence()
_ATTACKER = "sums"  # whoever sees what is released sees the sums


@dataclass(frozen=True, kw_only=True)
class SumsSeen:
    """What an attacker sees of r released sums of d numbers, and what it knows.

    ``values`` are the sums, float64[r, d], and ``signal`` is what the canaries that are present add to
    them, float64[r, d]. ``noise`` is the planned noise's standard deviation, float64[r]. ``cosines`` are
    those of each sum with each site's direction, float64[p], and ``present``, bool[p], whether the site
    sent it.
    """

    values: NDArray[np.float64]
    signal: NDArray[np.float64]
    noise: NDArray[np.float64]
    cosines: NDArray[np.float64]
    present: NDArray[np.bool_]

    def share(self, *, error: float) -> float:
        """How many times less noise there is than planned, beside what a site adds, at the least.

        It holds with probability 1 − ``error``: see ``gaussian_pair``, with a score for each number of each
        sum. Skellam noise is taken for Gaussian, as it is in numbers that a rotation mixes.
        """
        scores, weights = (one / self.noise[:, None] for one in (self.values, self.signal))
        return separation_bound(scores.ravel(), weights.ravel(), error=error)


@dataclass(frozen=True, kw_only=True)
class SiteAudit(Claim):
    """What released sums proved of one run that hides whole sites.

    ``present`` of the ``sites`` sent directions, in ``rounds`` sums of ``numbers``. ``upper`` is what the
    plan says of a whole site, over these sums; the one of ``bounds`` holds if the noise is Gaussian.
    ``attackers`` has how well cosines of sums with directions tell which were sent.
    """

    sites: int
    present: int
    rounds: int
    numbers: int
    bounds: tuple[Bound, ...]
    attackers: tuple[Rates, ...]

    @property
    def lower(self) -> float:
        return max(bound.epsilon for bound in self.bounds)

    def check(self) -> None:
        """Raises AuditError if what is claimed is refuted."""
        if not self.holds:
            raise AuditError(
                f"the plan claims epsilon={self.upper:.4g} at delta={self.delta:g} for a whole site, and "
                f"the released sums show epsilon >= {self.lower:.4g}, with a confidence of "
                f"{self.confidence:.0%}: the mechanism does not do what its plan says"
            )


def audit_sites(job: Job, *, seed: int | None = None, progress: Progress = _SILENCE) -> SiteAudit:
    """Run a job once with all its sites as canaries, half of them present, and attack the sums.

    All but training is the run's own: clipping, the grid, noise, masks and the strategy. The run's folder
    is not kept. ``seed`` repeats who is present, and the directions. Raises UserError for a job that hides
    no sites, has no noise, or whose rounds are more than a mean, and what a simulation raises.
    """
    privacy = job.privacy
    if not (privacy.hides_sites and privacy.protects):
        raise UserError(
            f'expected a job with privacy.unit="site" and noise, got unit={privacy.unit!r} and '
            f"mechanism={privacy.mechanism!r}: `confide audit empirical` attacks examples"
        )
    check_canaries_fit(job)
    if not rounds_add_up(job):
        raise UserError(
            "expected rounds that release a plain mean of what sites send, with SGD, no compression and no "
            "weights: elsewhere a site's direction cannot be told in a sum"
        )
    tracing = Tracing(seed)
    progress.stage("Reading the data and loading the base model")
    with tracing.running():
        world = World(job)
    canaries = draw_sites(world, np.random.default_rng(tracing.seed))
    seen, plan, survivors = attack_sums(world, canaries, progress=progress, tracing=tracing)
    shown = epsilon_with_less(plan, seen.share(error=ERROR), survivors)
    return SiteAudit(
        job=job.name,
        sites=len(canaries.present),
        present=sum(canaries.present.values()),
        rounds=len(seen.noise),
        numbers=canaries.size,
        bounds=(Bound(attacker=_ATTACKER, form="gaussian", epsilon=shown, of="all releases"),),
        attackers=(rate_scores(_ATTACKER, seen.cosines, seen.present, error=ERROR),),
        upper=plan.epsilon_of_summed(survivors),
        delta=privacy.delta,
        confidence=1.0 - ERROR,
        provenance=tracing.end(world, "sites"),
    )


def draw_sites(world: World, generator: np.random.Generator) -> SiteCanaries:
    """All of a world's sites as canaries, half of them present."""
    names = world.site_names
    chosen = set(generator.permutation(len(names))[: (len(names) + 1) // 2].tolist())
    return SiteCanaries(
        present={name: number in chosen for number, name in enumerate(names)},
        size=world.adapted.layout.update_size,
        norm=world.job.privacy.clipping_norm,
        seed=int(generator.integers(2**63)),
    )


def attack_sums(
    world: World, canaries: SiteCanaries, *, progress: Progress, tracing: Tracing
) -> tuple[SumsSeen, SitePlan, list[int]]:
    """One run with these canaries: the sums as they are seen, the run's plan, and how many are in each."""
    names, layout = world.site_names, world.adapted.layout
    trainers = {name: DirectionTrainer(world.trainer, canaries, site=name) for name in names}
    attacked = world.with_trainers(trainers)
    with attacked_run(attacked, progress=progress, tracing=tracing) as folder:
        progress.stage("Attacking what was released")
        manifest, finished = folder.manifest, len(folder.records())
        adapters = [folder.load_adapter(number, layout) for number in range(finished + 1)]
    plan = plan_for_site(manifest, update_size=canaries.size)
    there = {
        number: [name for name in names if number in trainers[name].rounds]
        for number in range(1, finished + 1)
    }
    seen = see_sums(adapters, there, canaries, plan, strategy=world.job.strategy, layout=layout)
    return seen, plan, [len(sites) for sites in there.values()]


def see_sums(
    adapters: Sequence[NDArray[np.float32]],
    there: Mapping[int, Sequence[str]],
    canaries: SiteCanaries,
    plan: SitePlan,
    *,
    strategy: Strategy,
    layout: AdapterLayout,
) -> SumsSeen:
    """The sums that led from each adapter to the next, by who was ``there`` in each round."""
    values, signal, noise = [], [], []
    cosines, present = list[float](), list[bool]()
    for number, sites in there.items():
        change = moved(layout, strategy, adapters[number - 1], adapters[number])
        total, added = len(sites) * change, np.zeros(canaries.size)
        length = max(float(np.linalg.norm(total)), 1e-300)
        for site in sites:
            direction = canaries.direction(site, number)
            cosines.append(float(total @ direction) / length)
            present.append(canaries.present[site])
            if canaries.present[site]:
                added += canaries.norm * direction
        values.append(total)
        signal.append(added)
        noise.append(plan.summed_noise_std(len(sites)))
    return SumsSeen(
        values=np.stack(values),
        signal=np.stack(signal),
        noise=np.array(noise),
        cosines=np.array(cosines),
        present=np.array(present),
    )


def epsilon_with_less(plan: SitePlan, share: float, survivors: Sequence[int]) -> float:
    """ε of these sums under a plan whose noise is ``share`` times less; 0 for a share of 0."""
    if share <= 0.0:
        return 0.0
    multiplier = multiplier_with(plan.mechanism.multiplier, share)
    weaker: SitePlan
    if isinstance(plan, SharedSitePlan):
        weaker = replace(plan, mechanism=replace(plan.mechanism, multiplier=multiplier))
    else:
        weaker = replace(plan, mechanism=replace(plan.mechanism, multiplier=multiplier))
    return weaker.epsilon_of_summed(survivors)
