"""Texts and a number each: how much, how good, how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from pydantic import Field, model_validator

from protocol.job.data_section import SourceKeys
from protocol.job.job import Dirichlet
from protocol.plain_text import Word
from tasks.data.feature_columns import number_in
from tasks.data.rows import Rows, present
from tasks.measures import Measure, share_correct
from tasks.sequence_classification import SequenceClassification
from tasks.task import Encoded, Outcome, TaskKeys
from tasks.text import LengthKeys

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch, Examples
    from tasks.data.token_examples import TokenExamples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_NEAR = 0.1  # of the range: what counts as right
_End = Annotated[float, Field(ge=-1e12, le=1e12)]


class NumberKeys(TaskKeys):
    """The columns of texts and of their numbers, which go from one end of ``range`` to the other."""

    text: Word = "text"
    number: Word
    range: Annotated[list[_End], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.range[0] < self.range[1]:
            raise ValueError("range: expected a lower end, then a higher one")
        return self


class NumberSection(LengthKeys, NumberKeys):
    """A job's keys."""


@dataclass(frozen=True, kw_only=True)
class NumberOutcome(Outcome):
    """``told`` and ``right``, float32[b]: numbers in their own unit."""

    told: torch.Tensor
    right: torch.Tensor

    def sums(self) -> dict[str, float]:
        off, right = self.told.double() - self.right.double(), self.right.double()
        return super().sums() | {
            "off": float(off.abs().sum()),
            "squared": float(off.square().sum()),
            "numbers": float(right.sum()),
            "squares": float(right.square().sum()),
        }


def _explained(sums: Mapping[str, float]) -> float:
    """R²: by how much less squared error than always telling the mean; 0 where all numbers are one."""
    spread = sums["squares"] - sums["numbers"] ** 2 / sums["counted"]
    return 1 - sums["squared"] / spread if spread > 1e-12 * sums["squares"] else 0.0


_R2 = Measure(name="r2", title="R²", of=_explained)
_MEAN_ERROR = Measure(
    name="mean_error",
    title="mean error",
    of=lambda sums: sums["off"] / sums["counted"],
    lower_is_better=True,
)
_RMSE = Measure(
    name="rmse",
    title="root mean squared error",
    of=lambda sums: (sums["squared"] / sums["counted"]) ** 0.5,
    lower_is_better=True,
)
_WITHIN = Measure(
    name="accuracy", title="within a tenth of the range", of=share_correct, share=True, by_example=True
)


class TextRegression(SequenceClassification):
    """A text's number, by a head with one output: half the squared error, with the range as -1 to 1.

    That is a normal distribution's negative log-likelihood, but for a constant.
    """

    name = "text-regression"
    about = "a number that a text has"
    labelled = False
    measures = (_R2, _MEAN_ERROR, _RMSE, _WITHIN)
    Section = NumberSection
    Columns = NumberKeys

    def refuses(self, job: Job, section: Any) -> str | None:  # noqa: ARG002
        """A head starts anew, and there are no labels."""
        if job.model.head != "new":
            return f'model.head: expected "new" with task="{self.name}"'
        if isinstance(job.federation.partition, Dirichlet):
            return f'federation.partition: dirichlet needs labels; task="{self.name}" has none'
        return None

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """Each row's text and number; None for a row without a text or a finite number."""
        from tasks.data.read_table import read_table

        table = read_table(data, columns=[columns.text, columns.number])
        texts = map(present, table.column(columns.text, key="data.text"))
        numbers = [number_in(cell) for cell in table.column(columns.number, key="data.number")]
        contents = tuple(
            None if text is None or number is None else (text, number)
            for text, number in zip(texts, numbers, strict=True)
        )
        faults = table.faults
        low, high = columns.range
        for row, number in enumerate(numbers):
            if number is None:
                faults.setdefault(row, "no finite number")
        outside = sum(number is not None and not low <= number <= high for number in numbers)
        remark = f"numbers outside data.range, which are cut off at its ends: {outside}"
        return Rows(contents=contents, faults=faults, remarks=(remark,) * (outside > 0))

    def digest(self, content: Any) -> bytes:
        """SHA-256 of the text, 32 bytes; its number does not count, as a label does not."""
        return super().digest(content[0] if content else None)

    def load(self, job: Job, section: Any, *, labels: tuple[str, ...], device: Device) -> BaseModel:  # noqa: ARG002
        """The encoder with a head of one output, which starts at zero: the middle of the range.

        Its config says the range, as whoever loads an export needs it.
        """
        base = super().load(job, section, labels=(section.number,), device=device)
        cast("Any", base.model).config.number_range = section.range
        return base

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:  # noqa: ARG002
        """Each text tokenized by itself, with its number."""
        import numpy as np

        from tasks.data.tokenization import tokenize

        texts = [None if content is None else content[0] for content in rows.contents]
        numbers = [0.0 if content is None else content[1] for content in rows.contents]
        found = tokenize(reader, texts=texts, labels=None)
        targets = np.array(numbers, np.float32).reshape(-1, 1)
        examples = replace(cast("TokenExamples", found.examples), targets=targets)
        return Encoded(examples=examples, blank=found.blank)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Texts of any tokens, with any numbers in the range."""
        texts = self.made_up_texts(adapted, random, sizes)
        low, high = adapted.spec.data["range"]
        numbers = random.uniform(low, high, (len(sizes), 1)).astype("float32")
        return replace(texts, labels=None, targets=numbers)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> NumberOutcome:
        """Half the squared distance, in halves of the range."""
        import torch

        low, high = adapted.spec.data["range"]
        middle, half = (low + high) / 2, (high - low) / 2
        told, right = self.logits(adapted, batch)[:, 0], batch.inputs["targets"][:, 0].clamp(low, high)
        off = told - (right - middle) / half
        return NumberOutcome(
            losses=off.square() / 2,
            correct=(off.abs() <= 2 * _NEAR).long(),
            counted=torch.ones_like(off, dtype=torch.int64),
            told=middle + half * told.detach(),
            right=right,
        )

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """As other texts' classifiers, with what its output is in the config."""
        merged.config.problem_type = "regression"
        super().export(merged, base, folder)


TASK = TextRegression()
