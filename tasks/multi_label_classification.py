"""Texts that may have several labels, or none: for each label, whether a text has it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import Field, model_validator

from protocol.job.data_section import SourceKeys
from protocol.plain_text import Word
from tasks.data.rows import Rows, present
from tasks.label_outcome import AUC, MACRO_F1
from tasks.label_set_outcome import EXACT, LABEL_ACCURACY, MICRO_F1, LabelSetOutcome
from tasks.labelled_keys import DeclaredLabels, refuses_dealing
from tasks.measures import LOSS
from tasks.sequence_classification import SequenceClassification
from tasks.task import Encoded
from tasks.text import LengthKeys, TextKeys

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch, Examples
    from tasks.data.token_examples import TokenExamples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel


class LabelSetKeys(TextKeys):
    """The columns of texts and of their labels: a list, or a text with one label after another."""

    between: Word = Field(";", max_length=3, description="what stands between a cell's labels")

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        odd = [label for label in self.labels or [] if self.between in label or label != label.strip()]
        if odd:
            raise ValueError(f"between: expected what is in no label, and no spaces around one: {odd[0]!r}")
        return self


class LabelSetSection(LengthKeys, LabelSetKeys):
    """A job's keys."""


class LabelSetColumns(LabelSetKeys, DeclaredLabels):
    """A site's keys: texts with labels."""


class MultiLabelClassification(SequenceClassification):
    """Each label is told by itself: a text, which is one example, has the mean loss over the labels."""

    name = "multi-label-classification"
    about = "which of some labels a text has, each by itself"
    measures = (MACRO_F1, MICRO_F1, AUC, LABEL_ACCURACY, EXACT, LOSS)
    Section = LabelSetSection
    Columns = LabelSetColumns

    def refuses(self, job: Job, section: Any) -> str | None:
        """Labels are declared, and texts with several cannot be dealt out by them."""
        found = refuses_dealing(job, section, task=self.name, have="may have several")
        return found or super().refuses(job, section)

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """Texts, and each one's labels, in order and once; None for a cell that holds no labels.

        An empty cell is a text that has none of the labels.
        """
        from tasks.data.read_table import read_table

        table = read_table(data, columns=[columns.text, columns.label], nested=[columns.label])
        texts, cells = (table.column(getattr(columns, key), key=f"data.{key}") for key in ("text", "label"))
        faults = table.faults
        return Rows(
            contents=tuple(map(present, texts)),
            labels=tuple(
                None if cell is None and row in faults else _labels_in(cell, columns.between)
                for row, cell in enumerate(cells)
            ),
            faults=faults,
        )

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """Each text tokenized by itself, with 1 for each label that it has and 0 for each other."""
        import numpy as np

        from tasks.data.tokenization import tokenize

        known = {label: number for number, label in enumerate(labels)}
        targets = np.zeros((len(rows), len(labels)), np.float32)
        usable: list[int | None] = []
        for row, found in enumerate(rows.labels or ()):
            usable.append(0 if found is not None and known.keys() >= set(found) else None)
            if usable[-1] is not None:
                targets[row, [known[label] for label in found]] = 1.0
        encoded = tokenize(reader, texts=rows.contents, labels=usable)
        examples = replace(cast("TokenExamples", encoded.examples), labels=None, targets=targets)
        return Encoded(examples=examples, blank=encoded.blank)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Texts of any tokens, each label of any of them by a coin."""
        texts = self.made_up_texts(adapted, random, sizes)
        coins = random.integers(0, 2, (len(sizes), adapted.peft.config.num_labels))
        return replace(texts, labels=None, targets=coins.astype("float32"))

    def forward(self, adapted: AdaptedModel, batch: Batch) -> LabelSetOutcome:
        """The mean cross-entropy of each label by itself."""
        return LabelSetOutcome.of(self.logits(adapted, batch), batch.inputs["targets"])

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """As other texts' classifiers, with what its outputs mean in the config."""
        merged.config.problem_type = "multi_label_classification"
        super().export(merged, base, folder)


def _labels_in(cell: str | None, between: str) -> tuple[str, ...] | None:
    """The labels in a cell, sorted and once; None for a list of else than texts and whole numbers."""
    if present(cell) is None or cell is None:
        return ()
    found: Any = cell.split(between)
    if cell.lstrip().startswith("["):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, list) or not all(type(label) in {str, int} for label in found):
            return None
    return tuple(sorted({str(label).strip() for label in found} - {""}))


TASK = MultiLabelClassification()
