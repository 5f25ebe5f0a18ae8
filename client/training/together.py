"""Several sites' training on one machine, in batches that they share.

Sites that train one model at the same time differ in their adapters and examples alone. With weights of
each row's own (``StackedGradients``) their examples share batches, so that few rows are blank and few calls
are small. Each example's gradient, clipping and place on the grid are its own, each site's sum and noise
too: a site's update is what it is when trained alone, but for rounding in batches of another height.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.correlated_steps import CorrelatedSteps
from client.training.adaptive_norm import AdaptiveNorm
from client.training.cancellation import Between, StoppedError
from client.training.gradients import Found, Gradients, Loss, losses
from client.training.round_examples import examples_of_round
from client.training.sparse_rows import take
from client.training.stacked_gradients import StackedGradients
from client.training.step import add_batch, make_optimizer, nobody, set_rate, whatever_fails
from client.training.training import Trainer, learning_rate
from privacy.accounting.sampled_plan import SampledPlan
from privacy.mechanisms.rng import Entropy
from protocol.job.training_section import TrainingSection
from protocol.plain_text import first_line
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Batch, Examples
from tasks.data.joint_examples import JointExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations
from tasks.model.joint_activations import JointActivations

log = logging.getLogger("confide.training")


@dataclass(frozen=True, kw_only=True)
class Share:
    """One site's part: what ``Trainer.train`` is asked for. ``hidden`` and the others are as there."""

    adapter: NDArray[np.float32]
    examples: Examples
    plan: SampledPlan
    hidden: bool
    entropy: Entropy
    activations: Activations | None
    between: Between
    drift: NDArray[np.float32] | None = None
    correlated: CorrelatedSteps | None = None
    adaptive: AdaptiveNorm | None = None

    def train(
        self, trainer: Trainer, *, training: TrainingSection, round_number: int
    ) -> NDArray[np.float32]:
        """Its update when it is trained alone: see ``Trainer.train``."""
        return trainer.train(
            self.adapter,
            self.examples,
            training=training,
            plan=self.plan,
            hidden=self.hidden,
            round_number=round_number,
            entropy=self.entropy,
            activations=self.activations,
            between=self.between,
            drift=self.drift,
            correlated=self.correlated,
            adaptive=self.adaptive,
        )


def train_or_nothing(
    trainer: Trainer,
    shares: Sequence[Share],
    *,
    training: TrainingSection,
    round_number: int,
    rows: int,
) -> Sequence[NDArray[np.float32] | None]:
    """What ``train_together`` finds; None for those that are to be trained alone, one after another.

    Raises StoppedError alone.
    """
    try:
        return train_together(trainer, shares, training=training, round_number=round_number, rows=rows)
    except StoppedError:
        raise
    except Exception as error:  # one site's policy, or a model's code, which raises whatever it likes
        # Nothing has left. Whose fault it is shows when each trains alone.
        log.info("the sites train one after another: %s", first_line(error))
        return [None] * len(shares)


def train_together(
    trainer: Trainer,
    shares: Sequence[Share],
    *,
    training: TrainingSection,
    round_number: int,
    rows: int,
) -> list[NDArray[np.float32]]:
    """The update of each share, in order, as ``Trainer.train`` finds it; batches have ``rows`` rows.

    ``trainer`` has stacked gradients, and the adapter no dropout. Raises what ``Trainer.train`` does, for
    the first site whose training fails: then no update may leave, and each is to be trained alone.
    """
    adapted = trainer.adapted
    adapted.train_in(round_number)
    examples = JointExamples(
        [
            examples_of_round(
                adapted,
                share.examples,
                adapter=share.adapter,
                round_number=round_number,
                entropy=share.entropy,
            )
            for share in shares
        ]
    )
    stores = [share.activations for share in shares if share.activations is not None]
    kept = JointActivations(examples, stores) if len(stores) == len(shares) else None
    shapes = trainer.shapes(training, stores[0] if kept else None, rows=rows)
    adapted.peft.train()
    sites = [_Site(adapted, share, training) for share in shares]
    method, loss = _OwnWeights(adapted, examples, sites), losses(adapted, kept)
    for step in range(training.local_steps):
        drawn = [
            examples.offsets[number] + site.draw(round_number, step, training)
            for number, site in enumerate(sites)
        ]
        indices = np.concatenate(drawn)
        if kept is not None:
            with timed(Part.ACTIVATIONS):
                kept.fill(indices, shapes)
        with timed(Part.DATA):
            batches = list(shapes.batches(examples, indices))
        for batch in batches:
            owners = examples.owners(batch.indices)
            found = whatever_fails(method, batch, loss)
            for owner in np.unique(owners):
                sites[owner].add(take(found, torch.from_numpy(np.flatnonzero(owners == owner))))
        for site in sites:
            site.step(nobody(adapted))
    return [site.update(trainer) for site in sites]


class _Site:
    """A site's own weights, float32, and its optimizer, which clips, adds noise and moves them."""

    def __init__(self, adapted: AdaptedModel, share: Share, training: TrainingSection) -> None:
        self._adapted, self._share = adapted, share
        adapted.load(share.adapter)
        self.weights = {name: nn.Parameter(p.detach().clone()) for name, p in adapted.trained.items()}
        copies = list(self.weights.values())
        self._optimizer = make_optimizer(
            adapted, training, share.plan, copies=copies, drift=share.drift, adaptive=share.adaptive
        )

    def draw(self, round_number: int, step: int, training: TrainingSection) -> NDArray[np.int64]:
        """Who is in the step's Poisson sample, without blank examples; the step's noise is ready then."""
        share, optimizer = self._share, self._optimizer
        share.between(step, training.local_steps)
        optimizer.source = share.entropy(round_number, step, "gradients")
        set_rate(optimizer, learning_rate(training, round_number, step))
        sampling = share.entropy(round_number, step, "sampling")
        drawn = share.plan.draw(sampling, len(share.examples))
        if share.correlated is not None:
            drawn = share.correlated.drawn_in(step, drawn)
            optimizer.correlated = share.correlated.release(step)
        return share.examples.without_blanks(drawn)

    def add(self, gradients: Found) -> None:
        """Clip these examples and add them to the step's sum."""
        add_batch(self._optimizer, gradients, last=False)
        self._optimizer.zero_grad(set_to_none=True)

    def step(self, no_more: Gradients) -> None:
        """Take the step, with noise alone if nobody was drawn."""
        add_batch(self._optimizer, no_more, last=True)
        self._optimizer.zero_grad(set_to_none=True)

    def update(self, trainer: Trainer) -> NDArray[np.float32]:
        share = self._share
        self._adapted.load(share.adapter)
        with torch.no_grad():
            for name, parameter in self._adapted.trained.items():
                parameter.copy_(self.weights[name])
        return trainer.update(share.adapter, share.plan, self._optimizer, hidden=share.hidden)


class _OwnWeights:
    """Gradients of examples of several sites, each with its own site's weights as they are now."""

    batched = True

    def __init__(self, adapted: AdaptedModel, examples: JointExamples, sites: Sequence[_Site]) -> None:
        self.adapted, self._examples, self._sites = adapted, examples, sites
        self._stacked = StackedGradients(adapted)

    def backward(self, batch: Batch, loss: Loss) -> Found:
        owners = self._examples.owners(batch.indices)
        # A blank row is nobody's: it has somebody's weights.
        owners = np.append(owners, np.full(len(batch) - len(owners), owners[0]))
        weights = {
            name: torch.stack([self._sites[owner].weights[name].detach() for owner in owners])
            for name in self.adapted.trained
        }
        return self._stacked.backward_with(weights, batch, loss)
