"""The race's work by pfl-research: its simulated backend, its federated averaging, its model for PyTorch.

A site is one of its users. Its batches are made once and kept, each padded to its longest text, as the
plain loop pads them; users take turns, and none is evaluated by itself but in the first round, which is
not counted. The model is the very one that Confide loads. ``race.py`` runs this in an environment that
has pfl.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from race_work import BATCH, COHORT, RATE, STEPS, Lap, next_turn, the_job

from simulation.simulated_federation import World
from tasks.data.examples import Batch, Examples
from tasks.model.adapted_model import AdaptedModel


class Texts(Dataset):
    """A user's examples, in batches that are made once."""

    def __init__(self, examples: Examples, user_id: str | None = None) -> None:
        order = np.random.default_rng(0).permutation(len(examples))
        super().__init__(raw_data=(order,), user_id=user_id)
        self._examples, self._order = examples, order

    def iter(self, batch_size: int | None) -> Iterator[dict[str, torch.Tensor]]:
        rows = batch_size or len(self._order)
        if rows not in self._batches:
            starts = range(0, len(self._order), rows)
            made = [self._examples.batch(self._order[start : start + rows]) for start in starts]
            self._batches[rows] = [dict(batch.inputs) for batch in made]
        yield from self._batches[rows]

    def get_worker_partition(self) -> Texts:
        return self


class Model(torch.nn.Module):
    """Confide's model with the two methods that pfl asks for."""

    def __init__(self, adapted: AdaptedModel) -> None:
        super().__init__()
        self.peft, self._forward = adapted.peft, adapted.forward

    def loss(self, **inputs: torch.Tensor) -> torch.Tensor:
        self.peft.train()
        return self._losses(inputs).mean()

    @torch.no_grad()
    def metrics(self, **inputs: torch.Tensor) -> dict[str, Weighted]:
        self.peft.eval()
        losses = self._losses(inputs)
        return {"loss": Weighted(losses.sum().item(), len(losses))}

    def _losses(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        ids = inputs["input_ids"]
        return self._forward(Batch(inputs=inputs, indices=np.arange(len(ids)), size=ids.shape[1])).losses


class Turns(TrainingProcessCallback[Any]):
    """Waits after each round until it is this peer's turn again."""

    def after_central_iteration(self, *_args: Any, **_named: Any) -> tuple[bool, Metrics]:
        next_turn()
        return False, Metrics()


def run(lap: Lap) -> torch.nn.Module:
    """All rounds; the model after them."""
    world = World(the_job(lap))
    world.adapted.load(world.initial_adapter)
    trained = list(world.adapted.trained.values())

    @cache
    def user(name: str) -> Texts:
        return Texts(world.examples(name), name)

    for name in world.site_names:
        user(name)
    users = FederatedDataset(user, get_user_sampler("minimize_reuse", list(world.site_names)))
    held_out = Texts(world.held_out)
    evaluation = NNEvalHyperParams(local_batch_size=len(world.held_out))
    model = PyTorchModel(
        Model(world.adapted),
        # Frozen parameters are none of an optimizer's business: pfl hands over all.
        local_optimizer_create=lambda _all, lr: torch.optim.SGD(trained, lr=lr),
        central_optimizer=torch.optim.SGD(trained, lr=1.0),
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=lap.rounds,
            evaluation_frequency=lap.rounds,
            train_cohort_size=COHORT,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=users, val_data=users),
        model,
        NNTrainHyperParams(
            local_num_epochs=None,
            local_num_steps=STEPS,
            local_learning_rate=RATE,
            local_batch_size=BATCH,
        ),
        evaluation,
        [CentralEvaluationCallback(held_out, evaluation, distribute_evaluation=False), Turns()],
    )
    return model.pytorch_model


if __name__ == "__main__":
    rounds, layers, threads = sys.argv[1:]
    run(Lap(rounds=int(rounds), layers=layers, threads=int(threads)))
