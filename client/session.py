"""A session: what a site holds of a run that it joined, and what it plans for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.host import Materials
from client.noise_stream import NoiseStream
from client.site_memory import SiteMemory
from client.sums.site_sums import SiteSums
from privacy.accounting.banded_plan import make_banded_plan
from privacy.accounting.mixed_plan import Source, mixed_plan
from privacy.accounting.phased_plan import PhaseToPlan, make_phased_plan
from privacy.accounting.plan import Plan
from privacy.accounting.sampled_plan import SampledPlan, make_count_plan, make_sampled_plan
from privacy.accounting.training_plan import TrainingPlan
from privacy.errors import DataError, ProtocolError
from privacy.ledger.ledger import Ledger
from privacy.ledger.receipt import Receipt
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.job.mix import planned_examples, source_rates
from protocol.job.phases import uneven
from protocol.job.ranks import layout_at, narrowed
from protocol.messages.vector import from_bytes

if TYPE_CHECKING:
    from protocol.job.layout import AdapterLayout
    from tasks.model.adapted_model import AdaptedModel


@dataclass(frozen=True, kw_only=True)
class Session:
    """A run that was joined; ``dataset`` is the data's number in the ledger.

    ``plan`` is what the training's releases cost, ``training`` the noise that its local steps add;
    ``metrics`` is for the one release after it, None if the job asks for none. ``memory`` is what the site
    keeps from round to round, and ``stream`` the noise of steps that is correlated, if it is.
    """

    manifest: Manifest
    signature: bytes
    materials: Materials
    plan: Plan
    training: TrainingPlan
    sums: SiteSums
    metrics: SampledPlan | None
    ledger: Ledger
    dataset: int
    memory: SiteMemory
    stream: NoiseStream | None = None

    def open_stream(self) -> None:
        """Find the seed of correlated noise before anything is charged.

        Raises RunError if it is lost, DataError unless each example has the digest that its group is by.
        """
        if self.stream is not None:
            digests, examples = len(self.materials.digests), len(self.materials.examples)
            if digests != examples:
                raise DataError(f"expected a digest for each of {examples} examples, got {digests}")
            self.stream.open(taken=self.ledger.taken(self.manifest.run))

    def close_stream(self, receipt: Receipt) -> None:
        """Remove that seed after the plan's last step."""
        if self.stream is not None:
            self.stream.forget_after(receipt)

    @property
    def layout(self) -> AdapterLayout:
        return self.materials.trainer.adapted.layout

    @property
    def keeps(self) -> bool:
        """Whether something of a round stays at the site for the next one."""
        job = self.manifest.job
        moves = job.privacy.clipping_quantile is not None
        return self.layout.local_size > 0 or job.strategy.corrects or moves

    @property
    def hidden(self) -> bool:
        """Whether local steps have no noise, and masks or noise after them hide a single update.

        Whether one is finite is for nobody to know then. Where each is read as it is, an error tells no
        more than the update.
        """
        return not self.training.protects and (self.plan.hides_sites or self.sums.hidden)

    def adapter(self, content: bytes) -> NDArray[np.float32]:
        """What the site holds of a run's adapter that came as bytes: float32[adapter_size] at its rank.

        Raises ProtocolError for bytes that are no adapter of the run.
        """
        adapted, job = self.materials.trainer.adapted, self.manifest.job
        if job.adapter.ranks is None:
            return from_bytes(content, size=adapted.layout.adapter_size)
        whole = layout_at(adapted.layout, job.adapter.rank)
        return narrowed(from_bytes(content, size=whole.adapter_size), whole, rank=adapted.spec.adapter.rank)

    @property
    def digest(self) -> str:
        """The manifest's digest, as the ledger and receipts write it."""
        return self.manifest.digest.hex()


def plan_training(job: Job, examples: int, *, rounds: int | None = None, near: float = 1.0) -> TrainingPlan:
    """The noise of the local steps at a site with so many examples, in all rounds or in so many of them.

    It is sought from the multiplier ``near``, and does not depend on it. Raises PlanError if none exists.
    """
    rounds = job.training.rounds if rounds is None else rounds
    phases = [phase.training for phase in job.phases]
    if uneven(job) and job.privacy.protects:
        return make_phased_plan(
            [
                PhaseToPlan(
                    steps=phase.training.total_steps,
                    expected_batch_size=phase.training.batch_size,
                    share=phase.share,
                )
                for phase in job.phases
            ],
            epsilon=job.privacy.epsilon,
            delta=job.privacy.delta,
            clipping_norm=job.privacy.bound,
            examples=examples,
            near=near,
            unit=job.privacy.sampled_unit,
        )
    # Where they differ here, steps have no noise of their own: each phase has its rate (``Work.plan``).
    batch_size = max(training.batch_size for training in phases)
    steps = rounds * phases[0].local_steps + job.training.personal_steps
    if len({training.local_steps for training in phases}) > 1:
        steps = job.total_steps
    if job.privacy.correlated:
        return make_banded_plan(
            bands=job.privacy.bands,
            weights=job.training.step_weights(steps),
            epsilon=job.privacy.epsilon,
            delta=job.privacy.delta,
            clipping_norm=job.privacy.clipping_norm,
            expected_batch_size=batch_size,
            examples=examples,
            near=near,
            unit=job.privacy.sampled_unit,
        )
    return make_sampled_plan(
        mechanism=job.privacy.local_mechanism,
        epsilon=job.privacy.epsilon,
        delta=job.privacy.delta,
        clipping_norm=job.privacy.bound,
        expected_batch_size=batch_size,
        examples=examples,
        steps=steps,
        near=near,
        unit=job.privacy.sampled_unit,
    )


def counted(job: Job, materials: Materials) -> int:
    """How many examples a run is planned for: a site's, or so many as a mix's largest rate stands for.

    Raises PlanError for a source of a mix with too few.
    """
    parts = materials.parts
    return planned_examples(job, parts) if parts else len(materials.examples)


def on_a_mix(plan: TrainingPlan, job: Job, parts: tuple[int, ...]) -> TrainingPlan:
    """The plan, drawing each source of a mix at its own rate; as it is for a job without one.

    ``parts`` are the site's examples of each source. Raises PlanError for a source with too few.
    """
    if not parts:
        return plan
    rates = source_rates(job, parts)
    # A last bit may be between what was planned for and a source's rate, which is drawn at no more.
    return mixed_plan(
        plan,
        tuple(
            Source(examples=count, rate=min(rate, plan.sampling_rate))
            for count, rate in zip(parts, rates, strict=True)
        ),
    )


def plan_metrics(job: Job) -> SampledPlan | None:
    """The plan for a job's metrics, None if it asks for none."""
    if not job.metrics.epsilon:
        return None
    privacy = job.privacy
    return make_count_plan(epsilon=job.metrics.epsilon, delta=privacy.delta, unit=privacy.sampled_unit)


def check_manifest(
    manifest: Manifest,
    adapted: AdaptedModel,
    *,
    site: str,
    labels: tuple[str, ...],
    examples: int,
    simulated: bool,
) -> None:
    """Raises ProtocolError or DataError if a site with this model, labels and examples cannot join.

    Labels are compared with those that the site declares, never with what its rows hold: a refusal is a
    release.
    """
    if manifest.job.statistics is not None:
        raise ProtocolError("the run is one of statistics, and no site trains in it")
    if not manifest.rounds_of(site):
        raise ProtocolError(f"site {site} is in no round of this run")
    manifest.weight(site)
    if not examples:
        raise DataError("the site has no examples: use fewer sites or another partition")
    check_model(manifest, adapted.model_digest)
    ranks, layout = manifest.job.adapter.ranks, adapted.layout
    whole = layout if ranks is None else layout_at(layout, manifest.job.adapter.rank)
    if manifest.layout_digest != whole.digest:
        raise ProtocolError("the adapter's layout differs: use the same versions everywhere")
    check_labels(manifest, labels)
    if manifest.job.seeds.noise is not None and not simulated:
        raise ProtocolError(
            "seeds.noise makes the noise predictable, and so protects nobody: only a simulation may set it"
        )


def check_drawn(manifest: Manifest, site: str, number: int) -> None:
    """Raises ProtocolError for a round that a site is not in: its noise is planned without it."""
    if not manifest.draws(site, number):
        raise ProtocolError(f"site {site} is not drawn for round {number} of this run")


def check_model(manifest: Manifest, digest: str) -> None:
    """Raises ProtocolError unless a manifest is for the model that a site has loaded."""
    if manifest.model_digest != digest:
        raise ProtocolError(
            f"the model differs: expected SHA-256 {manifest.model_digest[:16]}…, this site has "
            f"{digest[:16]}…; use the same weights, config and tokenizer everywhere, and the same versions "
            "of the libraries"
        )


def check_labels(manifest: Manifest, labels: tuple[str, ...]) -> None:
    """Raises ProtocolError unless a manifest has the labels that a site declares."""
    if manifest.labels != labels:
        raise ProtocolError(
            f"the labels differ: expected {', '.join(labels)}, in this order, got "
            f"{', '.join(map(str, manifest.labels))}"
        )
