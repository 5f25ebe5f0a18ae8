"""The empirical audit: one run of a job with canaries in it, attacked, and what that proves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from privacy.audit.poisson_draws import draws_p_value
from privacy.audit.roc import Rates, rate_scores
from privacy.errors import AuditError, UserError
from protocol.job.job import Job
from runs.progress import Progress, Silence
from runs.run_folder import RunFolder
from runs.spent import last_epsilon
from simulation.attack.attack_bounds import Bound, find_bounds
from simulation.attack.attackable import check_canaries_fit, rounds_add_up, steps_add_up
from simulation.attack.attacked_run import attacked_run
from simulation.attack.canaries import Canaries, draw_canaries
from simulation.attack.canary_trainer import CanaryTrainer
from simulation.attack.finding import ERROR, Claim
from simulation.attack.observed import Observed, seen_from_site, seen_in_adapter, seen_in_rounds
from simulation.attack.provenance import Tracing
from simulation.simulated_federation import World

# Of the error, the part for how the canaries were drawn.
_DRAWS_ERROR = 0.001
_SILENCE = Silence()


@dataclass(frozen=True, kw_only=True)
class EmpiricalAudit(Claim):
    """What attacks proved of one run of a job.

    ``upper`` is what the receipts of the canaries' ``site`` claim for one example, or one group where the
    job's unit is that. ``draws`` is the p-value of how often each canary was drawn, if batches are Poisson
    samples; under 0.001 they are not.
    ``present`` of the ``canaries`` were in. ``attackers`` say how well each told which.
    """

    site: str
    canaries: int
    present: int
    bounds: tuple[Bound, ...]
    draws: float
    attackers: tuple[Rates, ...]

    @property
    def best(self) -> Bound:
        """The largest lower bound."""
        return max(self.bounds, key=lambda bound: bound.epsilon)

    @property
    def lower(self) -> float:
        return self.best.epsilon

    @property
    def drawn_as_planned(self) -> bool:
        return self.draws > _DRAWS_ERROR

    @property
    def holds(self) -> bool:
        return self.bounds_hold and self.drawn_as_planned

    def check(self) -> None:
        """Raises AuditError, naming the attack or the draws, if what is claimed is refuted."""
        if not self.drawn_as_planned:
            raise AuditError(
                f"{self.site} claims epsilon={self.upper:.4g} for batches that are Poisson samples, and "
                f"its canaries were not drawn so: p={self.draws:.2g}"
            )
        if not self.bounds_hold:
            best = self.best
            raise AuditError(
                f"{self.site} claims epsilon={self.upper:.4g} at delta={self.delta:g}, and the attacker "
                f"{best.attacker!r} shows epsilon >= {best.epsilon:.4g} (form {best.form!r}, from "
                f"{best.of}), with a confidence of {self.confidence:.0%}: the mechanism does not do "
                "what its plan says"
            )


def audit_empirically(
    job: Job, *, canaries: int = 1000, seed: int | None = None, progress: Progress = _SILENCE
) -> EmpiricalAudit:
    """Run a job once with simulated sites and canaries at the first of them, and attack what is released.

    The canaries take the places of some of its examples, so that its plan is what the job's is: clipping,
    sampling, noise, sums and the strategy are a run's own. With ``privacy.unit = "group"`` a canary takes a
    whole group's place: it is the one gradient that is found of all its rows. The run's folder is not kept.
    ``seed`` repeats where canaries stand and which are in, and nothing else; without one it is drawn, and
    told afterwards.
    Raises UserError for a job that hides whole sites, has no noise, or whose sites send something else than
    what they train, and what a simulation raises.
    """
    privacy = job.privacy
    if privacy.hides_sites or not privacy.protects:
        raise UserError(
            f'expected a job with privacy.unit="example" or "group" and noise, got unit={privacy.unit!r} '
            f"and mechanism={privacy.mechanism!r}: canaries are examples, and without noise nothing is "
            "claimed; `confide audit sites` attacks whole sites"
        )
    check_canaries_fit(job)
    tracing = Tracing(seed)
    progress.stage("Reading the data and loading the base model")
    with tracing.running():
        world = World(job)
    placed = place_canaries(world, canaries=canaries, seed=tracing.seed)
    trainers = {
        site: CanaryTrainer(world.trainer, placed, planted=site == placed.site) for site in world.site_names
    }
    attacked = world.with_trainers(trainers)
    with attacked_run(attacked, progress=progress, tracing=tracing) as folder:
        tracing.attacking(sum(trainer.seconds for trainer in trainers.values()))
        progress.stage("Attacking what was released")
        return _judge(world, folder, placed, trainers, tracing, asked=canaries)


def place_canaries(world: World, *, canaries: int, seed: int) -> Canaries:
    """Canaries at the site with the most examples, the first of several."""
    rounds = world.manifest("audit")
    in_a_round = [site for site in world.site_names if rounds.rounds_of(site)]
    site = max(in_a_round, key=lambda name: world.sizes[name])
    return draw_canaries(
        site,
        world.examples(site),
        layout=world.adapted.layout,
        strategy=world.job.strategy,
        wanted=canaries,
        generator=np.random.default_rng(seed),
    )


def _judge(
    world: World,
    folder: RunFolder,
    canaries: Canaries,
    trainers: Mapping[str, CanaryTrainer],
    tracing: Tracing,
    *,
    asked: int,
) -> EmpiricalAudit:
    sent = trainers[canaries.site].sent
    upper = last_epsilon(folder.records()).get(canaries.site) if sent else None
    if upper is None:
        raise AuditError(
            f"{canaries.site} trained in no round that was finished: there is nothing to attack"
        )
    # What was claimed is for the steps that were taken: a run may stop before its plan ends, and personal
    # steps come after what is attacked.
    trained = [one.contributed for one in sent.values()]
    taken = sum(len(one.weights) for one in trained)
    plan = replace(sent[min(sent)].contributed.plan, steps=taken)
    draws = np.sum([one.draws for one in trained], axis=0)
    seen = observe(world, folder, canaries, trainers)
    return EmpiricalAudit(
        job=world.job.name,
        site=canaries.site,
        canaries=len(canaries),
        present=int(canaries.present.sum()),
        upper=upper,
        delta=plan.delta,
        confidence=1.0 - ERROR,
        bounds=find_bounds(seen, canaries, plan, error=ERROR - _DRAWS_ERROR),
        draws=draws_p_value(draws, steps=taken, rate=plan.sampling_rate),
        attackers=tuple(
            rate_scores(one.attacker, one.scores(plan), canaries.present, error=ERROR) for one in seen
        ),
        provenance=tracing.end(world, "empirical", canaries=asked),
    )


def observe(
    world: World, folder: RunFolder, canaries: Canaries, trainers: Mapping[str, CanaryTrainer]
) -> tuple[Observed, ...]:
    """What each attacker sees of a finished run: a site's updates only where the job lets them be read."""
    job, layout = world.job, world.adapted.layout
    adapters = [folder.load_adapter(number, layout) for number in range(len(folder.records()) + 1)]
    rounds = seen_in_rounds(
        adapters,
        {site: trainer.sent for site, trainer in trainers.items()},
        canaries,
        strategy=job.strategy,
        linear=rounds_add_up(job),
    )
    adapter = seen_in_adapter(
        adapters[0],
        adapters[-1],
        rounds,
        canaries,
        strategy=job.strategy,
        sites=folder.manifest.cohort,
    )
    if job.aggregation.hidden:
        return rounds, adapter
    return seen_from_site(trainers[canaries.site].sent, canaries, linear=steps_add_up(job)), rounds, adapter
