"""A site's trainer with canaries among its examples, which keeps what the site sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.correlated_steps import CorrelatedSteps
from client.training.adaptive_norm import AdaptiveNorm
from client.training.cancellation import Between, no_pause
from client.training.training import Trainer, learning_rate
from privacy.accounting.sampled_plan import SampledPlan
from privacy.mechanisms.rng import Entropy
from protocol.job.training_section import TrainingSection
from simulation.attack.canaries import Canaries
from simulation.attack.canary_gradients import CanaryGradients, Contributed
from tasks.data.examples import Examples
from tasks.data.shapes import Shapes
from tasks.model.frozen_prefix import Activations


@dataclass(frozen=True, kw_only=True)
class SentRound:
    """A round at one site: what was ``contributed``, and the update's numbers at the canaries' places."""

    contributed: Contributed
    update: NDArray[np.float64]


class CanaryTrainer(Trainer):
    """Trains as ``plain`` does, by the same steps; ``sent`` has each round that it trained."""

    def __init__(self, plain: Trainer, canaries: Canaries, *, planted: bool) -> None:
        gradients = CanaryGradients(plain.gradients, canaries, planted=planted)
        super().__init__(gradients)
        self._plain, self._canaries, self._watched = plain, canaries, gradients
        self.sent: dict[int, SentRound] = {}

    @property
    def seconds(self) -> float:
        """What canaries have taken of the processor's time."""
        return self._watched.seconds

    def train(
        self,
        adapter: NDArray[np.float32],
        examples: Examples,
        *,
        training: TrainingSection,
        plan: SampledPlan,
        hidden: bool = False,
        round_number: int,
        entropy: Entropy,
        activations: Activations | None,
        between: Between = no_pause,
        drift: NDArray[np.float32] | None = None,
        correlated: CorrelatedSteps | None = None,
        adaptive: AdaptiveNorm | None = None,
    ) -> NDArray[np.float32]:
        """See ``Trainer.train``."""
        contributed = self._watched.begin(plan)

        def watched(step: int, steps: int) -> None:
            between(step, steps)
            self._watched.step(learning_rate(training, round_number, step) / training.batch_size)

        try:
            update = super().train(
                adapter,
                examples,
                training=training,
                plan=plan,
                hidden=hidden,
                round_number=round_number,
                entropy=entropy,
                activations=activations,
                between=watched,
                drift=drift,
                correlated=correlated,
                adaptive=adaptive,
            )
        finally:
            self._watched.end()
        places = update[self._canaries.places].astype(np.float64)
        # The first counts: steps after the last round, which nothing leaves of, call theirs round 1 too.
        self.sent.setdefault(round_number, SentRound(contributed=contributed, update=places))
        return update

    def shapes(
        self, training: TrainingSection, activations: Activations | None, *, rows: int | None = None
    ) -> Shapes:
        """Those of the plain trainer: they are tried on made-up examples, among which are no canaries."""
        return self._plain.shapes(training, activations, rows=rows)
