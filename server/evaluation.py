"""Evaluation of an adapter on the coordinator's own held-out examples."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.examples import Examples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations
from tasks.task import outcome

_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Score:
    """Held-out ``loss`` in nats a prediction, and ``accuracy`` as a share of predictions."""

    loss: float
    accuracy: float


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
        """Loss and accuracy of an adapter, float32[adapter_size]."""
        adapted = self._adapted
        adapted.load(adapter)
        adapted.peft.eval()
        nats = correct = counted = 0.0
        with torch.no_grad():
            for held in self._examples.batches(self._all, size=_BATCH):
                batch = held.to(adapted.device.torch)
                with self._activations.replay(batch) if self._activations else nullcontext():
                    found = outcome(adapted, batch)
                nats += float((found.losses.double() * found.counted).sum())
                correct += int(found.correct.sum())
                counted += int(found.counted.sum())
        return Score(loss=nats / counted, accuracy=correct / counted)
