"""The empirical audit: one run of a job with canaries in it, attacked, and what that proves."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from privacy.accounting.sampled_plan import SampledPlan
from privacy.audit.poisson_draws import draws_p_value
from privacy.audit.roc import Rate, auc, tpr_at
from privacy.audit.roc_curve import Curve, roc_curve
from privacy.errors import AuditError, UserError
from protocol.job.job import Job
from protocol.job.strategy import Strategy
from runs.progress import Progress, Silence
from runs.run import new_name
from runs.run_folder import RunFolder
from runs.spent import last_epsilon
from simulation.attack.attack_bounds import Bound, find_bounds
from simulation.attack.canaries import Canaries, draw_canaries
from simulation.attack.canary_trainer import CanaryTrainer
from simulation.attack.observed import Observed, seen_from_site, seen_in_adapter, seen_in_rounds
from simulation.attack.provenance import Provenance, trace
from simulation.simulated_federation import World
from simulation.simulated_run import run_in_folder

ERROR = 0.05
# Of the error, the part for how the canaries were drawn.
_DRAWS_ERROR = 0.001
_SEED_BITS = 48  # few enough that any reader of JSON keeps them all
_SILENCE = Silence()


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """How well one attacker tells canaries that are in: rates with their intervals at 95 % each."""

    name: str
    auc: Rate
    tpr_at_permille: Rate
    tpr_at_percent: Rate


@dataclass(frozen=True, kw_only=True)
class EmpiricalAudit:
    """What attacks proved of one run of a job.

    ``upper`` is the ε at ``delta`` that the receipts of the canaries' ``site`` claim. ``bounds`` are lower
    bounds, of which with probability ``confidence`` none is above what it bounds. ``draws`` is the p-value
    of how often each canary was drawn, if batches are Poisson samples; under 0.001 they are not.
    ``present`` of the ``canaries`` were in. ``curves`` are the attackers' ROC curves by name.
    """

    job: str
    site: str
    canaries: int
    present: int
    upper: float
    delta: float
    confidence: float
    bounds: tuple[Bound, ...]
    draws: float
    attackers: tuple[Attacker, ...]
    curves: Mapping[str, Curve]
    provenance: Provenance

    @property
    def best(self) -> Bound:
        """The largest lower bound."""
        return max(self.bounds, key=lambda bound: bound.epsilon)

    @property
    def lower(self) -> float:
        return self.best.epsilon

    @property
    def margin(self) -> float:
        """How far the claim is above what attacks prove; negative where the claim is refuted."""
        return self.upper - self.lower

    @property
    def bounds_hold(self) -> bool:
        """Whether no bound is above the claim."""
        return self.lower <= self.upper

    @property
    def drawn_as_planned(self) -> bool:
        return self.draws > _DRAWS_ERROR

    @property
    def verdict(self) -> str:
        return "not refuted" if self.bounds_hold and self.drawn_as_planned else "refuted"

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
    sampling, noise, sums and the strategy are a run's own. The run's folder is not kept. ``seed`` repeats
    where canaries stand and which are in, and nothing else; without one it is drawn, and told afterwards.
    Raises UserError for a job that hides whole sites, has no noise, or whose sites send something else than
    what they train, and what a simulation raises.
    """
    privacy = job.privacy
    if privacy.hides_sites or not privacy.protects:
        raise UserError(
            f'expected a job with privacy.unit="example" and noise, got unit={privacy.unit!r} and '
            f"mechanism={privacy.mechanism!r}: canaries are examples, and without noise nothing is "
            "claimed; `confide audit sites` attacks whole sites"
        )
    check_canaries_fit(job)
    began, seed = int(time.time()), secrets.randbits(_SEED_BITS) if seed is None else seed
    progress.stage("Reading the data and loading the base model")
    world = World(job)
    placed = place_canaries(world, canaries=canaries, seed=seed)
    trainers = {
        site: CanaryTrainer(world.trainer, placed, planted=site == placed.site) for site in world.site_names
    }
    with tempfile.TemporaryDirectory(prefix="confide-audit-") as place:
        attacked = world.with_trainers(trainers)
        folder = attacked.create_folder(Path(place) / new_name(job))
        if job.federation.cohort is not None:
            attacked.booked_homes(folder)
        run_in_folder(attacked, folder, progress=progress, title="Attacked run")
        progress.stage("Attacking what was released")
        provenance = trace(folder, asked=canaries, seed=seed, began=began)
        return _judge(world, folder, placed, trainers, provenance)


def check_canaries_fit(job: Job) -> None:
    """Raises UserError unless what each site sends of a round has a place for each trained number."""
    rule = job.strategy
    if rule.cycle > 1:
        raise UserError(
            "strategy.name: expected a rule that trains the same numbers in each round, got "
            f'"{rule.name}": a canary is a step along one of them; use strategy.name="ffa"'
        )
    if type(rule).encode is not Strategy.encode:
        raise UserError(
            "strategy.name: expected a rule that sends what it trains as it is, got "
            f'"{rule.name}": a canary is a step along one number that a site sends; use '
            'strategy.name="ffa"'
        )
    if rule.keeps_local or rule.keep_local != "nothing":
        raise UserError(
            f'strategy.keep_local: expected "nothing", and a rule that sends all that it trains, got '
            f'"{rule.keep_local}" and strategy.name="{rule.name}": a canary is a step along a number that '
            "is released"
        )
    if job.privacy.correlated:
        raise UserError(
            'privacy.noise_correlation: expected "none", got '
            f'"{job.privacy.noise_correlation}": the attacks take each step\'s noise for its own'
        )
    if job.phase:
        raise UserError(
            f"phase: expected none, got {len(job.phase)}: the attacks take all rounds to train the same "
            "numbers with the same noise; attack each phase as a job of its own"
        )
    if job.privacy.clipping_quantile is not None:
        raise UserError(
            "privacy.clipping_quantile: expected none: a canary is as long as the clipping norm, which the "
            "attacks take to be the same in all steps"
        )
    if job.data.mix:
        raise UserError(
            "data.mix: expected none: canaries stand in places of examples that are all drawn at one rate"
        )
    if job.adapter.ranks is not None:
        raise UserError(
            "adapter.ranks: expected none: a canary is a step along one number of the run's adapter, which "
            "a site with a smaller one does not train"
        )


def steps_add_up(job: Job) -> bool:
    """Whether an update is a sum of steps, each of which is a clipped sum with its noise and no more."""
    training = job.training
    return training.optimizer == "sgd" and not training.proximal and not job.strategy.corrects


def rounds_add_up(job: Job) -> bool:
    """Whether what a round releases is the plain mean of its sites' sums of steps.

    Elsewhere the noise is not that of all sites together: a heavy site's update, or the one that Krum
    takes, comes with its own noise alone, and would look as if noise were missing.
    """
    plain = job.compression.kind == "none" and job.training.update_norm is None
    mean = job.strategy.linear and job.strategy.server is None and job.federation.weights is None
    return steps_add_up(job) and plain and mean


def place_canaries(world: World, *, canaries: int, seed: int | None) -> Canaries:
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
    provenance: Provenance,
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
        attackers=tuple(_attacker(one, canaries, plan) for one in seen),
        curves={one.attacker: roc_curve(one.scores(plan), canaries.present) for one in seen},
        provenance=provenance,
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


def _attacker(seen: Observed, canaries: Canaries, plan: SampledPlan) -> Attacker:
    scores, present = seen.scores(plan), canaries.present
    return Attacker(
        name=seen.attacker,
        auc=auc(scores, present, error=ERROR),
        tpr_at_permille=tpr_at(scores, present, fpr=0.001, error=ERROR),
        tpr_at_percent=tpr_at(scores, present, fpr=0.01, error=ERROR),
    )
