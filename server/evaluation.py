"""Evaluation of an adapter on the coordinator's own held-out examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ModelError
from tasks.data.examples import Batch, Examples
from tasks.measures import mean_loss
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations

_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Score:
    """Held-out ``loss`` in nats a prediction, and the task's ``measures`` by name."""

    loss: float
    measures: Mapping[str, float]


class Evaluator:
    """Scores adapters on held-out examples, which no site holds and no budget is spent on."""

    def __init__(self, adapted: AdaptedModel, examples: Examples, activations: Activations) -> None:
        self._adapted = adapted
        self._examples = examples
        self._all = np.arange(len(examples))
        self._activations = activations if activations.work else None

    @property
    def majority(self) -> float | None:
        """The accuracy of always answering the most frequent label; None without labels."""
        labels = self._examples.labels
        return None if labels is None else float(np.bincount(labels).max() / len(labels))

    def score(self, adapter: NDArray[np.float32]) -> Score:
        """The measures of an adapter, float32[adapter_size].

        Raises ModelError if the model fails on an example: these are the coordinator's own.
        """
        adapted = self._adapted
        adapted.load(adapter)
        adapted.peft.eval()
        sums: Counter[str] = Counter()
        with torch.no_grad():
            for held in self._examples.batches(self._all, rows=_BATCH):
                sums.update(self._sums(held))
        measures = {measure.name: measure.of(sums) for measure in adapted.task.measures}
        return Score(loss=mean_loss(sums), measures=measures)

    def _sums(self, held: Batch) -> Mapping[str, float]:
        adapted, batch = self._adapted, held.to(self._adapted.device.torch)
        try:
            with self._activations.replay(batch) if self._activations else nullcontext():
                return adapted.forward(batch).sums()
        except Exception as error:  # a model's code raises whatever it likes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ModelError(
                f"model.source={adapted.spec.model.source!r}: the model fails on a held-out "
                f"{adapted.task.units.example}: {reason}. Remove such from data.source, or choose another "
                "model"
            ) from error
