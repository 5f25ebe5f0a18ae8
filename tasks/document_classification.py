"""Long texts and their labels: read in windows, all of which together are one example."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from privacy.errors import ModelError
from tasks.label_outcome import LabelOutcome
from tasks.language import rows_of
from tasks.sequence_classification import SequenceClassification
from tasks.task import Encoded, Outcome, Units
from tasks.text import TextSection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch, Examples
    from tasks.data.rows import Rows
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device


class DocumentSection(TextSection):
    """A job's keys: of a document the first ``windows`` are read, each of ``max_length`` tokens."""

    windows: Annotated[int, Field(ge=2, le=64)] = 8


class DocumentClassification(SequenceClassification):
    """A document's label, by the mean of what its windows say: one loss and one gradient, however long.

    Its data are those of shorter texts.
    """

    name = "document-classification"
    about = "which of a few labels a long text has"
    units = Units(example="document", size="tokens a window")
    Section = DocumentSection

    def one_row_an_example(self, columns: Any) -> bool:  # noqa: ARG002
        """A document is several windows."""
        return False

    def load(self, job: Job, section: Any, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """As for shorter texts. Raises ModelError for a tokenizer that makes no windows."""
        base = super().load(job, section, labels=labels, device=device)
        if not base.reader.tokenizer.is_fast:
            raise ModelError(
                f"model.source={job.model.source!r}: expected a tokenizer with a tokenizer.json for "
                f'task="{self.name}": this one makes no windows of a text'
            )
        return replace(base, reader=replace(base.reader, windows=section.windows))

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """Each document by itself, with its label's number."""
        from tasks.data.document_windows import tokenize_documents

        known = {label: number for number, label in enumerate(labels)}
        numbers = [known.get(label or "") for label in rows.labels or ()]
        return tokenize_documents(reader, texts=rows.contents, labels=numbers)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Documents of as many windows as there may be, the first of them there and others by a coin."""
        import numpy as np

        from tasks.data.grouped_examples import GroupedExamples

        together = adapted.base.reader.windows
        rows = self.made_up_texts(adapted, random, np.repeat(sizes, together))
        there = random.integers(0, 2, (len(sizes), together)).astype("float32")
        there[:, 0] = 1.0
        return GroupedExamples(rows=replace(rows, targets=there.reshape(-1, 1)), together=together)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Cross-entropy of the label, by the mean of the windows' logits."""
        there, labels = batch.inputs["targets"], batch.inputs["labels"][:, 0]
        flat = {name: rows_of(batch.inputs[name]) for name in ("input_ids", "attention_mask")}
        logits = self.logits(adapted, replace(batch, inputs=flat)).reshape(*there.shape[:2], -1)
        # No window of a blank row is there: its loss is nobody's, and must be a number.
        return LabelOutcome.of((logits * there).sum(1) / there.sum(1).clamp(min=1), labels)


TASK = DocumentClassification()
