"""Membership inference: which examples were in a run, by what it released, and what that proves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.session import plan_training
from client.training.gradients import losses
from privacy.audit.curve_limits import most_auc, most_true
from privacy.audit.f_dp import curve_through
from privacy.audit.guesses import guess_shares
from privacy.audit.membership_scores import (
    Losses,
    balanced_coins,
    exposure,
    lira_scores,
    loss_scores,
    reference_scores,
)
from privacy.audit.one_run import best_of, one_run_bound
from privacy.audit.roc import Rates, auc, rate_scores
from privacy.errors import AuditError, UserError
from protocol.job.job import Job
from runs.progress import Progress, Silence
from runs.spent import highest_epsilon
from simulation.attack.attack_bounds import plan_curve
from simulation.attack.attack_targets import Kind, Targets, choose_targets, examples_in
from simulation.attack.attackable import check_canaries_fit, check_examples_stay, rounds_add_up
from simulation.attack.attacked_run import attacked_run
from simulation.attack.finding import ERROR, Claim
from simulation.attack.gradient_matching import GUESSES, MATCHED, Matched, match_gradients
from simulation.attack.provenance import Tracing
from simulation.simulated_federation import World

SHADOWS = 16
# The attacks, by what they ask of an adapter: each says how likely examples are in, from losses.
ATTACKS: Mapping[str, Callable[[Losses], NDArray[np.float64]]] = {
    "loss": loss_scores,
    "reference": reference_scores,
    "lira": lira_scores,
}
_ROWS = 256
_SILENCE = Silence()


@dataclass(frozen=True, kw_only=True)
class MembershipScore(Rates):
    """How well one attack tells who was in, of so many ``examples``, and the ε that its guesses prove."""

    examples: int
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that any attack can reach in the mean under what the plan promises one example."""

    auc: float
    tpr_at_permille: float
    tpr_at_percent: float


@dataclass(frozen=True, kw_only=True)
class Exposures:
    """By how many bits texts that were in are exposed among those that were left out: see ``exposure``.

    ``before`` is under the adapter that the run began with, to which all are the same by chance.
    """

    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class MembershipAttack(Claim):
    """What attacks told of who was in one run: by its last adapter, and by each round's for gradients.

    ``upper`` is the largest that a site's receipts claim for one example, or one group where the job's unit
    is that; infinite without noise. Bounds are for all attacks together. ``present`` of the ``targets``
    were in; ``exposure`` is for made-up texts alone. ``measures`` are the run's last, on held-out examples.
    """

    kind: Kind
    targets: int
    present: int
    shadows: int
    attacks: tuple[MembershipScore, ...]
    limits: Limits
    exposure: Exposures | None
    measures: Mapping[str, float]

    @property
    def best(self) -> MembershipScore:
        """The attack that proves most; of several that prove nothing, the one with the largest AUC."""
        return max(self.attacks, key=lambda attack: (attack.epsilon, attack.auc.value))

    @property
    def lower(self) -> float:
        return self.best.epsilon

    def check(self) -> None:
        """Raises AuditError, naming the attack, if what is claimed is refuted."""
        if not self.holds:
            raise AuditError(
                f"the run claims epsilon={self.upper:.4g} at delta={self.delta:g} for one example, and the "
                f"attack {self.best.name!r} shows epsilon >= {self.lower:.4g}, with a confidence of "
                f"{self.confidence:.0%}: the mechanism does not do what its plan says"
            )


def attack_membership(
    job: Job,
    *,
    kind: Kind = "own",
    targets: int | None = None,
    shadows: int = SHADOWS,
    seed: int | None = None,
    progress: Progress = _SILENCE,
) -> MembershipAttack:
    """Run a job once with each attacked example in by a coin, and tell from what it released who was.

    As many ``shadows`` are run in the same way, for the attacker: each example is in half of them. One that
    is out is blank, so that the plan is what the job's is. With ``privacy.unit = "group"`` groups are
    attacked: a coin is for all rows of one. ``seed`` repeats which examples are attacked and which are in.
    No run is kept. Raises UserError for what the job's author can mend.
    """
    if shadows < 4 or shadows % 2:
        raise UserError(f"expected an even number of shadows, 4 at least, got shadows={shadows}")
    check_examples_stay(job)
    tracing = Tracing(seed)
    progress.stage("Reading the data and loading the base model")
    with tracing.running():
        world = World(job)
    generator = np.random.default_rng(tracing.seed)
    chosen = choose_targets(world, kind=kind, count=targets, generator=generator)
    present = generator.random(len(chosen)) < 0.5
    coins = balanced_coins(shadows, len(chosen), generator)
    attacked = _train(world, chosen, present, progress=progress, tracing=tracing)
    trained = [
        _train_shadow(world, chosen, coin, number=k, of=shadows, progress=progress)
        for k, coin in enumerate(coins, start=1)
    ]
    progress.stage("Attacking what was released")
    losses = Losses(
        target=attacked.losses, shadows=np.stack([one.losses for one in trained]), present=coins
    )
    everyone = np.arange(len(chosen))
    scores = {name: (find(losses), everyone) for name, find in ATTACKS.items()}
    if _can_be_matched(job):
        scores["gradient"] = _match(world, chosen, attacked, trained[0], coins[0], generator)
    upper = math.inf if attacked.epsilon is None else attacked.epsilon
    options: dict[str, str | int] = {"kind": kind, "targets": len(chosen), "shadows": shadows}
    return MembershipAttack(
        job=job.name,
        kind=kind,
        targets=len(chosen),
        present=int(present.sum()),
        shadows=shadows,
        upper=upper,
        delta=job.privacy.delta,
        confidence=1.0 - ERROR,
        attacks=tuple(
            score_attack(name, found, present[of], delta=job.privacy.delta, error=ERROR / len(scores))
            for name, (found, of) in scores.items()
        ),
        limits=_limits(world, upper),
        exposure=_exposures(world, chosen, attacked, present) if kind == "text" else None,
        measures=attacked.measures,
        provenance=tracing.end(world, "attack", **options),
    )


def score_attack(
    name: str, scores: NDArray[np.float64], present: NDArray[np.bool_], *, delta: float, error: float
) -> MembershipScore:
    """How good an attack is, and what it proves with probability 1 − ``error``: see ``one_run``."""
    # Half of the examples are guessed to be in, whatever the scores' own zero is.
    guesses = guess_shares(scores - np.median(scores), present)
    bound = best_of(lambda one, e: one_run_bound(one, delta=delta, error=e), guesses, error=error)
    rates = rate_scores(name, scores, present, error=ERROR)
    return MembershipScore(**vars(rates), examples=len(scores), epsilon=bound)


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """A run's end: each target's loss, float64[m], and the largest ε of a site; None for no bound.

    ``adapters`` are those before the first round and after each.
    """

    adapters: tuple[NDArray[np.float32], ...]
    losses: NDArray[np.float64]
    epsilon: float | None
    measures: Mapping[str, float]


def _train(
    world: World,
    targets: Targets,
    present: NDArray[np.bool_],
    *,
    progress: Progress,
    title: str = "Attacked run",
    tracing: Tracing | None = None,
) -> _Trained:
    attacked, layout = targets.world(world, present), world.adapted.layout
    with attacked_run(attacked, progress=progress, title=title, tracing=tracing) as folder:
        records = folder.records()
        adapters = tuple(folder.load_adapter(number, layout) for number in range(len(records) + 1))
    return _Trained(
        adapters=adapters,
        losses=losses_under(world, targets, adapters[-1]),
        epsilon=highest_epsilon(records),
        measures=records[-1].measures,
    )


def _train_shadow(
    world: World,
    targets: Targets,
    present: NDArray[np.bool_],
    *,
    number: int,
    of: int,
    progress: Progress,
) -> _Trained:
    """A run that the attacker makes for itself: nobody asks how good it is, and no round of it is told."""
    job, title = world.job, f"Shadow {number} of {of}"
    progress.stage(title)
    if job.seeds.noise is not None:
        # Shadows of one key would all draw the same batches and noise.
        seeds = job.seeds.model_copy(update={"noise": job.seeds.noise + number})
        world = world.variant(job.model_copy(update={"seeds": seeds}))
    return _train(world.unscored(), targets, present, progress=Silence(), title=title)


def losses_under(world: World, targets: Targets, adapter: NDArray[np.float32]) -> NDArray[np.float64]:
    """The loss of each target under an adapter, float64[m], in nats a prediction."""
    adapted = world.adapted
    adapted.load(adapter)
    adapted.peft.eval()
    found = []
    with torch.no_grad():
        for site in targets.sites.values():
            loss = losses(adapted, site.activations if site.activations.work else None)
            of_all = np.zeros(len(site.whole))
            for held in site.whole.batches(site.rows, rows=examples_in(_ROWS, of=site.whole)):
                of_all[held.indices] = loss(held).double().cpu().numpy()
            found.append(of_all[site.rows])
    return np.concatenate(found)


def _exposures(world: World, targets: Targets, attacked: _Trained, present: NDArray[np.bool_]) -> Exposures:
    before = losses_under(world, targets, attacked.adapters[0])
    return Exposures(before=exposure(before, present), after=exposure(attacked.losses, present))


def _match(
    world: World,
    targets: Targets,
    attacked: _Trained,
    shadow: _Trained,
    in_shadow: NDArray[np.bool_],
    generator: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The scores of some of the targets by their gradients, float64[k], and which they are, int64[k].

    The guess at noise and drift is the one that serves best on a ``shadow``.
    """
    chosen = np.sort(generator.permutation(len(targets))[:MATCHED])
    matched, start = [], 0
    for site in targets.sites.values():
        inside = chosen[(chosen >= start) & (chosen < start + len(site.rows))] - start
        start += len(site.rows)
        rows = others = site.rows[inside]
        if targets.kind != "own":  # what is made up is not like others
            room = np.flatnonzero(site.whole.sizes > 0)
            count = min(len(room), MATCHED // len(targets.sites))
            others = np.sort(generator.choice(room, count, replace=False))
        plan = plan_training(world.job, len(site.whole))
        matched.append(Matched(site=site, rows=rows, others=others, plan=plan))
    tried, found = (
        match_gradients(world, run.adapters, matched, generator=generator) for run in (shadow, attacked)
    )
    best = max(range(len(GUESSES)), key=lambda k: auc(tried[k], in_shadow[chosen], error=ERROR).value)
    return found[best], chosen


def _can_be_matched(job: Job) -> bool:
    """Whether what a round releases is a plain sum of gradients of all sites."""
    try:
        check_canaries_fit(job)
    except UserError:
        return False
    return rounds_add_up(job) and job.federation.cohort is None


def _limits(world: World, upper: float) -> Limits:
    """What the plan of the smallest site allows; its (ε, δ) alone if noise or rates are no site's own."""
    job = world.job
    if math.isinf(upper):
        return Limits(auc=1.0, tpr_at_permille=1.0, tpr_at_percent=1.0)
    if job.privacy.hides_sites or job.data.mix:
        curve = curve_through([(upper, job.privacy.delta)])
    else:
        manifest = world.manifest("attack")
        site = min(world.sizes, key=lambda name: world.sizes[name])
        plan = plan_training(job, world.sizes[site], rounds=max(1, manifest.rounds_of(site)))
        curve = plan_curve(plan.mechanism, plan.sampling_rate, plan.draws(plan.steps))
    return Limits(
        auc=most_auc(curve),
        tpr_at_permille=most_true(curve, false=0.001),
        tpr_at_percent=most_true(curve, false=0.01),
    )
