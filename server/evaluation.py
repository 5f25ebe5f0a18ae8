"""Evaluation of an adapter on the coordinator's own held-out examples."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ModelError
from protocol.plain_text import first_line
from protocol.processes.time_spent import Part, timed
from tasks.answers import Answer
from tasks.data.examples import Batch, Examples
from tasks.label_scores import LabelScore, scores_of
from tasks.measures import Measure, mean_loss
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations
from tasks.task import AnsweringTask, Outcome, Task

log = logging.getLogger("confide.evaluation")

# Rows in a batch, and tokens or the like in all of it: a language model has a number a word at each.
_ROWS, _PLACES = 128, 4096


@dataclass(frozen=True, kw_only=True)
class Score:
    """Held-out ``loss`` in nats a prediction, the task's ``measures`` by name, and scores ``by_label``.

    The last is empty for a task that tells no labels apart.
    """

    loss: float
    measures: Mapping[str, float]
    by_label: Mapping[str, LabelScore] = field(default_factory=dict)


class Evaluator:
    """Scores adapters on held-out examples, which no site holds and no budget is spent on.

    ``labels`` are in the order of their numbers, none for a task without any.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        examples: Examples,
        activations: Activations,
        *,
        labels: tuple[str, ...],
    ) -> None:
        self._adapted = adapted
        self._examples = examples
        self._labels = labels
        self._all = np.arange(len(examples))
        self._activations = activations if activations.work else None

    @property
    def majority(self) -> float | None:
        """The accuracy of always answering the most frequent label; None without labels."""
        labels = self._examples.labels
        return None if labels is None else float(np.bincount(labels).max() / len(labels))

    @property
    def _rows(self) -> int:
        largest = int(self._examples.sizes.max(initial=1)) * self._examples.rows_an_example
        return max(1, min(_ROWS, _PLACES // max(1, largest)))

    @timed(Part.EVALUATION)
    def answers(self, adapter: NDArray[np.float32], *, count: int, seed: int) -> Sequence[Answer]:
        """What the model says with an adapter, float32[adapter_size], to so many held-out prompts.

        They are spread over all that are held out. Nothing, for a task whose models say nothing, and where
        the model fails at it: what was trained is none the worse.
        """
        adapted, task = self._adapted, self._adapted.task
        if not isinstance(task, AnsweringTask) or not count:
            return ()
        whole = self._examples.without_blanks(self._all)
        chosen = whole[np.unique(np.linspace(0, len(whole) - 1, num=min(count, len(whole))).astype(int))]
        adapted.load(adapter)
        try:
            return task.answer(adapted, self._examples.take(chosen), seed=seed)
        except Exception as error:  # a model's code raises whatever it likes
            log.warning("the model answers no held-out prompts: %s", first_line(error))
            return ()

    @property
    def task(self) -> Task:
        return self._adapted.task

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the task is judged by."""
        return self.task.measures

    @property
    def reader(self) -> Any:
        """What examples were made with."""
        return self._adapted.base.reader

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def outcomes(self, adapters: Sequence[NDArray[np.float32]]) -> Iterator[list[Outcome]]:
        """Batch by batch what each adapter, float32[adapter_size], makes of the held-out examples.

        Raises ModelError as ``score`` does.
        """
        for batch in self.batches():
            found = []
            for adapter in adapters:
                self._adapted.load(adapter)
                self._adapted.peft.eval()
                with torch.no_grad():
                    found.append(self._outcome(batch))
            yield found

    @timed(Part.EVALUATION)
    def score(self, adapter: NDArray[np.float32]) -> Score:
        """The measures of an adapter, float32[adapter_size].

        Raises ModelError if the model fails on an example: these are the coordinator's own.
        """
        self._adapted.load(adapter)
        self._adapted.peft.eval()
        with torch.no_grad():
            return self.measure(self._outcome(batch) for batch in self.batches())

    def batches(self) -> Iterator[Batch]:
        """All held-out examples, on the model's device, in the same order each time."""
        for held in self._examples.batches(self._all, rows=self._rows):
            yield held.to(self._adapted.device.torch)

    def measure(self, outcomes: Iterable[Outcome]) -> Score:
        """What a model scores, of which these are the outcomes of ``batches``."""
        sums: Counter[str] = Counter()
        for outcome in outcomes:
            sums.update(outcome.sums())
        measures = {measure.name: measure.of(sums) for measure in self._adapted.task.measures}
        return Score(loss=mean_loss(sums), measures=measures, by_label=scores_of(sums, self._labels))

    def _outcome(self, batch: Batch) -> Outcome:
        adapted = self._adapted
        try:
            with self._activations.replay(batch) if self._activations else nullcontext(batch) as known:
                return adapted.forward(known)
        except Exception as error:  # a model's code raises whatever it likes
            raise ModelError(
                f"model.source={adapted.spec.model.source!r}: the model fails on a held-out "
                f"{adapted.task.units.example}: {first_line(error)}. Remove such from data.source, or "
                "choose another model"
            ) from error


class Unscored(Evaluator):
    """For runs of whose adapters nobody asks how good they are: each loss is 0, and nothing is measured.

    A run with ``training.patience`` would end early.
    """

    def __init__(self) -> None:
        """It needs no model and no examples."""

    @property
    def majority(self) -> float | None:
        return None

    def answers(self, adapter: NDArray[np.float32], *, count: int, seed: int) -> Sequence[Answer]:  # noqa: ARG002
        return ()

    def outcomes(self, adapters: Sequence[NDArray[np.float32]]) -> Iterator[list[Outcome]]:  # noqa: ARG002
        return iter(())

    def score(self, adapter: NDArray[np.float32]) -> Score:  # noqa: ARG002
        return Score(loss=0.0, measures={})
