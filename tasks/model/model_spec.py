"""What of a job makes its model: models that were made for the same are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from protocol.job.adapter_section import AdapterSection
from protocol.job.job import Job, ModelSection
from protocol.job.strategy import Strategy
from protocol.job.trained_rounds import TrainedRounds
from tasks.registry import section_of


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What of a job makes its model, and all that an adapted model knows of a job.

    ``data`` are the task's own keys, and ``heads`` the first and last rounds of phases that train the head
    alone. ``rows_per_group`` is None where rows are examples. Models stay in memory over jobs: what may
    differ between jobs that share one is told at each call.
    """

    task: str
    data: Mapping[str, Any]
    model: ModelSection
    adapter: AdapterSection
    strategy: Strategy
    heads: tuple[tuple[int, int], ...] = ()
    rows_per_group: int | None = None

    @property
    def trained_rounds(self) -> TrainedRounds:
        """What is trained and sent in each round."""
        return TrainedRounds(strategy=self.strategy, heads=self.heads)

    @classmethod
    def of(cls, job: Job) -> ModelSpec:
        """The parts of a job that its model is made from."""
        return cls(
            task=job.task,
            data=section_of(job).model_dump(mode="json"),
            model=job.model,
            adapter=job.adapter,
            strategy=job.strategy,
            heads=job.trained_rounds.heads,
            rows_per_group=job.data.rows_per_group,
        )

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it: models made for equal tables are the same."""
        return {
            name: value.model_dump(mode="json") if isinstance(value, pydantic.BaseModel) else value
            for name, value in vars(self).items()
        }
