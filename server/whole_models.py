"""Scores of whole models, such as one that an adapter was merged into, on the held-out examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from privacy.errors import ModelError
from protocol.plain_text import first_line
from runs.quantized_record import Scores
from server.job_context import Workplace
from tasks.task import Outcome, ReferenceTask


class WholeModels:
    """Scores models of the job's own class as a round's adapter is scored, in the adapted model's place.

    No site holds these examples, and no budget is spent on them. A task that compares with the base model
    does so with what that says now, before anything else is in its place.
    """

    def __init__(self, workplace: Workplace) -> None:
        self._adapted, self._evaluator = workplace.adapted, workplace.evaluator
        self.examples = len(workplace.held_out)
        task = self._adapted.task
        self._references: list[torch.Tensor] | None = None
        if isinstance(task, ReferenceTask):
            self._references = [
                task.reference(self._adapted, batch).cpu() for batch in self._evaluator.batches()
            ]

    def score(self, model: Any) -> Scores:
        """The held-out loss and measures of a model. Raises ModelError if it fails on an example.

        From here on it stands where the adapted one was, which can be trained no more.
        """
        self._adapted.peft.base_model.model = model.to(self._adapted.device.torch).eval()
        try:
            with torch.no_grad():
                found = self._evaluator.measure(self._outcomes())
        except Exception as error:  # a model's code raises whatever it likes
            raise ModelError(
                f"the model fails on a held-out {self._adapted.task.units.example}: {first_line(error)}"
            ) from error
        return Scores(loss=found.loss, measures=dict(found.measures))

    def _outcomes(self) -> Iterator[Outcome]:
        for number, batch in enumerate(self._evaluator.batches()):
            if self._references is None:
                yield self._adapted.forward(batch)
            else:
                reference = self._references[number].to(self._adapted.device.torch)
                yield self._adapted.forward(batch.beside(reference=reference))
