"""An actor of a simulation on Ray: a process, on any machine of a cluster, that trains sites.

Of a site it has the examples, and nothing else: keys, policies, ledgers and sums stay with the process that
coordinates. It keeps the base model, the sites' examples and their kept activations between rounds.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray
from numpy.typing import NDArray

from client.correlated_steps import CorrelatedSteps
from client.refusal import answer_or_refuse
from client.training.adaptive_norm import AdaptiveNorm
from client.training.cancellation import no_pause, within
from client.training.gradient_check import choose_gradients
from client.training.recipe import begin_with_sent
from client.training.together import Share, train_or_nothing
from client.training.training import Trainer
from client.training.unit_check import check_privacy_unit
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import ConfideError, ModelError
from privacy.mechanisms.rng import fresh_entropy, keyed_entropy
from protocol.job.job import Job
from protocol.job.model_places import with_files
from protocol.job.training_section import TrainingSection
from protocol.messages import confide_pb2 as pb
from simulation.kept import Kept
from tasks.data.examples import Examples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import choose_device
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.registry import checked_job

if TYPE_CHECKING:
    from ray import ObjectRef

log = logging.getLogger("confide.simulation")


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """What an actor is made for: a job, as JSON, and what its model must turn out to be.

    Sites that an actor trains together have batches of ``rows`` rows; None if they train apart. It may keep
    activations of ``kept_bytes``. ``start`` is the adapter that the run began with, as it is sent, where
    the job compares with it. ``files`` have the content of models' files that the job names in ``[data]``,
    by their keys: the machine need not have them.
    """

    job: str
    labels: tuple[str, ...]
    model_digest: str
    layout_digest: str
    rows: int | None
    kept_bytes: int
    start: bytes | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One site's round: what ``Work`` has of it that can travel.

    ``adapter``, float32[adapter_size], and ``examples`` are in Ray's object store, where all actors of a
    machine share one copy. ``training`` is the round's, the same for all of its sites. ``drift``,
    ``correlated`` and ``adaptive`` are as ``Trainer.train`` takes them.
    """

    site: str
    adapter: ObjectRef[NDArray[np.float32]]
    examples: ObjectRef[Examples]
    plan: SampledPlan
    training: TrainingSection
    hidden: bool
    longest: float
    drift: NDArray[np.float32] | None = None
    correlated: CorrelatedSteps | None = None
    adaptive: AdaptiveNorm | None = None


class TrainingActor:
    """Trains the sites that it is given, one batch of them after another."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._kept: Kept[str, tuple[Examples, Activations]] = Kept(equipment.kept_bytes)

    def load(self) -> str | None:
        """Load the base model by the job's source on this machine; the reason if that cannot be."""
        try:
            self._load()
        except ConfideError as error:
            return str(error)
        return None

    def _load(self) -> None:
        wanted = self._equipment
        self._job = job = checked_job(Job.model_validate_json(wanted.job))
        device = choose_device(job.device)
        with tempfile.TemporaryDirectory() as place:
            files = {key: Path(place) / key for key in wanted.files}
            for key, path in files.items():
                path.write_bytes(wanted.files[key])
            local = with_files(job, {key: str(path) for key, path in files.items()})
            base = load_base_model(local, labels=wanted.labels, device=device)
        adapted = AdaptedModel(base, job=job, device=device)
        if adapted.model_digest != wanted.model_digest or adapted.layout.digest != wanted.layout_digest:
            raise ModelError(
                f"model.source={job.model.source}: another model than the coordinator's; use the same "
                "files and the same versions of the libraries on all machines"
            )
        begin_with_sent(adapted, wanted.start)
        self._trainer, self._prefix = Trainer(choose_gradients(adapted)), FrozenPrefix(adapted)
        check_privacy_unit(self._trainer.gradients, adapted.probe())

    def train(self, assignments: Sequence[Assignment], number: int) -> list[NDArray[np.float32] | bytes]:
        """Of each site its update in round ``number``, or the refusal that its training's error becomes."""
        shares = [self._share(asked) for asked in assignments]
        rows = self._equipment.rows
        updates: Sequence[NDArray[np.float32] | None] = [None] * len(shares)
        if rows is not None and len(shares) > 1:
            updates = train_or_nothing(
                self._trainer, shares, training=assignments[0].training, round_number=number, rows=rows
            )
        return [
            self._alone(asked, share, number) if update is None else update
            for asked, share, update in zip(assignments, shares, updates, strict=True)
        ]

    def _alone(self, asked: Assignment, share: Share, number: int) -> NDArray[np.float32] | bytes:
        found: list[NDArray[np.float32]] = []

        def train() -> pb.Reply:
            found.append(share.train(self._trainer, training=asked.training, round_number=number))
            return pb.Reply()

        refusal = answer_or_refuse(asked.site, train, candid=True)
        return found[0] if found else refusal

    def _share(self, asked: Assignment) -> Share:
        def fetch() -> tuple[Examples, Activations]:
            examples = ray.get(asked.examples)
            return examples, Activations(self._prefix, examples)

        examples, activations = self._kept.get(asked.site, fetch, size=lambda found: found[1].nbytes)
        seed = self._job.seeds.noise
        return Share(
            adapter=ray.get(asked.adapter),
            drift=asked.drift,
            correlated=asked.correlated,
            adaptive=asked.adaptive,
            examples=examples,
            plan=asked.plan,
            hidden=asked.hidden,
            entropy=fresh_entropy if seed is None else keyed_entropy(seed, asked.site),
            activations=activations if activations.work else None,
            between=within(asked.longest, no_pause, clock=time.monotonic),
        )
