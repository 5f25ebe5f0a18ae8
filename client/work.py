"""A round's work at a site: what was checked and charged, and is not yet computed.

``Site.prepare`` checks a request and reserves what the round will cost; ``Work.train`` takes the steps, and
draws their noise; ``Site.complete`` hides the update and signs for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.correlated_steps import CorrelatedSteps
from client.local_round import Start
from client.session import Session
from client.training.cancellation import Between, within
from client.training.together import Share
from privacy.accounting.mixed_plan import MixedPlan
from privacy.accounting.phased_plan import PhasedPlan
from privacy.accounting.sampled_plan import SampledPlan
from privacy.ledger.receipt import Receipt
from privacy.mechanisms.rng import Entropy
from protocol.job.training_section import TrainingSection
from protocol.messages import confide_pb2 as pb


@dataclass(frozen=True, kw_only=True)
class Work:
    """One round of one run at one site. That there is one means that the ledger has reserved its cost.

    ``start`` is where the steps begin; ``receipt`` is not signed yet. ``between`` is called between steps,
    which may take ``longest`` seconds by ``clock`` from the first one on: what is prepared may wait.
    """

    session: Session
    request: pb.Train
    start: Start
    receipt: Receipt
    entropy: Entropy
    between: Between
    longest: float
    clock: Callable[[], float]

    @property
    def correlated(self) -> CorrelatedSteps | None:
        """Whom its steps draw from and what noise they add, where the run's noise is correlated."""
        stream = self.session.stream
        return None if stream is None else stream.steps(self.receipt)

    @property
    def training(self) -> TrainingSection:
        """What its steps are like: the job's ``[training]`` as it is in the round's phase."""
        return self.session.manifest.job.phase_of(self.request.round).training

    @property
    def plan(self) -> SampledPlan:
        """The rate and the noise of its steps, which follow from where the ledger's count of them stands.

        A round that is charged again has the noise of later steps, never that of a step that was taken.
        """
        planned, receipt = self.session.training, self.receipt
        if isinstance(planned, PhasedPlan):
            return planned.steps_from(receipt.taken - receipt.steps, receipt.steps)
        if planned.protects or isinstance(planned, MixedPlan):
            return planned
        examples = len(self.session.materials.examples)
        return replace(planned, sampling_rate=self.training.batch_size / examples)

    @property
    def share(self) -> Share:
        """Its steps, to be taken alone or together with other sites'."""
        materials = self.session.materials
        return Share(
            adapter=self.start.adapter,
            drift=self.start.drift,
            examples=materials.examples,
            plan=self.plan,
            hidden=self.session.hidden,
            entropy=self.entropy,
            activations=materials.activations if materials.activations.work else None,
            correlated=self.correlated,
            adaptive=self.start.adaptive,
            between=within(self.longest, self.between, clock=self.clock),
        )

    def train(self) -> NDArray[np.float32]:
        """Take the round's steps: what ``Trainer.update`` says. Raises what ``Trainer.train`` does."""
        session = self.session
        return self.share.train(
            session.materials.trainer,
            training=self.training,
            round_number=self.request.round,
        )
