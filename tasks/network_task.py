"""What tasks have in common whose network is their own: labels, one public shape, a loss, an export."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from tasks.label_outcome import CLASSIFIER, LabelOutcome
from tasks.labelled_keys import refuses_labels
from tasks.measures import Measure
from tasks.task import Encoded, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.dense_examples import DenseExamples
    from tasks.data.examples import Batch
    from tasks.data.rows import Rows
    from tasks.data.shapes import Sizes
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel

# A column's public range, from where to where it goes.
Range = Annotated[list[Annotated[float, Field(ge=-1e30, le=1e30)]], Field(min_length=2, max_length=2)]


class NetworkReader(Protocol):
    """What a network's inputs are made of: a tensor of one ``shape`` an example."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each number, or each channel, says, in words."""

    def encode(self, contents: Iterable[Any]) -> NDArray[Any]:
        """Examples as an array [n, *shape]; one without content becomes zeros."""


def check_ranges(key: str, ranges: dict[str, list[float]]) -> None:
    """Raises ValueError for a range that does not go from a lower end to a higher one."""
    for name, (low, high) in ranges.items():
        if not low < high:
            raise ValueError(f"{key}.{name}: expected a lower end, then a higher one")


class NetworkTask:
    """A classifier whose network is drawn from ``seeds.adapter`` and trained whole.

    Examples are all as large: each is one tensor, ``values``, as its reader keeps it.
    """

    name: str
    labelled, headed = True, True
    pretrained, drawn = False, True
    measures: tuple[Measure, ...] = CLASSIFIER

    def refuses(self, job: Job, section: Any) -> str | None:
        """A classifier needs labels, and private data may not be what tells them."""
        return self.refuses_model(job) or refuses_labels(job, section, task=self.name)

    def refuses_model(self, job: Job) -> str | None:
        """What belongs to models of texts."""
        asked = {"gguf": None, "pooling": "model", "padding": None, "quantization": None}
        for key, usual in asked.items():
            if getattr(job.model, key) != usual:
                return (
                    f'model.{key}: expected none with task="{self.name}", as it is for models of texts, '
                    f'got "{getattr(job.model, key)}"'
                )
        return None

    def sizes(self, base: BaseModel, section: Any) -> Sizes:  # noqa: ARG002
        """All examples are of size 1."""
        from tasks.data.shapes import Sizes

        return Sizes(least=1, most=1, public=(1,))

    def encode(self, reader: NetworkReader, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """Each example by itself, with its label's number if there are ``labels``.

        Raises DataError where the data were read without a column that the job reads.
        """
        from tasks.data.labelled_rows import encode_labelled

        return encode_labelled({"values": reader.encode(rows.contents)}, rows, labels=labels)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> DenseExamples:
        """Tensors of any numbers in the range of the task's own."""
        from tasks.data.dense_examples import DenseExamples

        values = self.made_up_values(random, (len(sizes), *adapted.base.reader.shape))
        labels = random.integers(0, self.count_labels(adapted.base.model), len(sizes))
        return DenseExamples(arrays={"values": values}, labels=labels, blank=sizes == 0)

    def made_up_values(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
        """Numbers as a reader of the task's makes them: float32 from -1 to 1, unless a task says else."""
        return random.uniform(-1, 1, shape).astype("float32")

    def scaled(self, values: torch.Tensor, reader: Any) -> torch.Tensor:  # noqa: ARG002
        """What the network is given of values as they are kept: floats from -1 to 1."""
        return values

    def logits(self, model: Any, values: torch.Tensor) -> torch.Tensor:
        """What the network makes of a batch."""
        found: torch.Tensor = model(values)
        return found

    def count_labels(self, model: Any) -> int:
        """How many labels the network tells apart."""
        return len(model.made_of["labels"])

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Cross-entropy of the label."""
        with adapted.device.autocast():
            values = batch.given("values", lambda found: self.scaled(found, adapted.base.reader))
            logits = self.logits(adapted.peft, values)
        return LabelOutcome.of(logits.float(), batch.inputs["labels"])

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """The weights, what inputs and outputs mean, and a program that loads them with torch alone."""
        from tasks.model.network_folder import write_network

        write_network(merged, folder, inputs=base.reader.inputs)
