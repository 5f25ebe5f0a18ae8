"""A task: all that depends on what an example is. Each is one file here, and exports it as ``TASK``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.data_section import SourceKeys
    from protocol.job.job import Job
    from tasks.answers import Answer
    from tasks.data.examples import Batch, Examples
    from tasks.data.rows import Rows
    from tasks.data.shapes import Sizes
    from tasks.measures import Measure
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel as LoadedModel
    from tasks.model.device import Device


class TaskKeys(BaseModel):
    """Keys that a task has in a file: unknown ones are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that are declared, in the order of the head's outputs; none for most tasks."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Units:
    """The field's words: what an ``example`` is ("text"), and what its size is counted in ("tokens")."""

    example: str
    size: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the model made of a batch, row by row.

    ``losses`` is float32[b], in nats: a mean over the example's predictions. ``correct`` and ``counted``
    are int64[b]: predictions that hit, and how many were made (one a text for a classifier, one a token
    for a language model). Their ratio is what an example weighs in metrics, in [0, 1]. ``answers`` is
    int64[b], the number of the label that each was given, for a task that tells labels apart.
    """

    losses: torch.Tensor
    correct: torch.Tensor
    counted: torch.Tensor
    answers: torch.Tensor | None = None

    def sums(self) -> dict[str, float]:
        """What measures are made of, added up over the rows. A task with other measures adds its own."""
        return {
            "nats": float((self.losses.double() * self.counted).sum()),
            "correct": float(self.correct.sum()),
            "counted": float(self.counted.sum()),
        }


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """n examples, and which rows are blank among them, by why; rows count from 0."""

    examples: Examples
    blank: Mapping[str, tuple[int, ...]]


class Task(Protocol):
    """What a job's ``task`` names.

    Attributes:
        name: what jobs call it.
        about: what it learns, in a few words.
        units: its words for an example and its size.
        labelled: whether its examples have labels that a head tells apart.
        headed: whether its models have a head that is trained whole, which may be all that is trained.
        pretrained: whether it can start from a model trained before, which stays frozen under LoRA.
        drawn: whether it has a network of its own, which is drawn from ``seeds.adapter`` and trained whole.
        measures: what it is judged by, the main one first.
        Section: its keys in a job's ``[data]``, beside those that all tasks have.
        Columns: its keys in a ``[data.ALIAS]`` of ``site.toml``. Data can serve all tasks that share them.

    What a row holds decides about that row alone, and never raises: one that cannot be used becomes a blank
    example of size 0, which counts, may be drawn and contributes nothing. Importing a task loads no torch.
    """

    name: str
    about: str
    units: Units
    labelled: bool
    headed: bool
    pretrained: bool
    drawn: bool
    measures: tuple[Measure, ...]
    Section: type[TaskKeys]
    Columns: type[TaskKeys]

    def refuses(self, job: Job, section: Any) -> str | None:
        """Why a job asks for what the task cannot do, naming the key; None if it can."""

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """A data set's rows, as they are. Raises DataError if the source or a column is missing."""

    def digest(self, content: Any) -> bytes:
        """What the ledger knows an example by, 32 bytes; of a row without content, None, too.

        The same example, however it is written, has the same digest.
        """

    def load(self, job: Job, section: Any, *, labels: tuple[str, ...], device: Device) -> LoadedModel:
        """The job's base model, frozen. What it lacks, such as a head, is the same at every site.

        Raises ModelError with the key to change.
        """

    def open_reader(self, source: str, columns: Any) -> Any:
        """What ``encode`` needs of a model, without its weights and without a limit on sizes.

        A custodian's check of data uses it. Raises ModelError where that cannot be had.
        """

    def sizes(self, base: LoadedModel, section: Any) -> Sizes:
        """How large examples and batches are. Raises ModelError for more than the model takes."""

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """As many examples as there are rows, with ``reader`` of the base model."""

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Examples of these sizes that nobody wrote, to try a model on before it trains."""

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Run the model on a batch, on its device, in its precision."""

    def export(self, merged: Any, base: LoadedModel, folder: Path) -> None:
        """Write a model that the adapter was merged into, for whoever uses it elsewhere."""


@runtime_checkable
class RowTask(Protocol):
    """A task that reads a table row by row, so that rows can be joined to groups."""

    def one_row_an_example(self, columns: Any) -> bool:
        """Whether each row of the table is one example, in its order, and one row of the model's."""


@runtime_checkable
class ReferenceTask(Protocol):
    """A task that compares what is trained with what training began with."""

    def reference(self, adapted: AdaptedModel, batch: Batch) -> torch.Tensor:
        """What the model made of each example before training, float32[b, …].

        ``forward`` finds it as ``reference``. That is the base model, or, with ``training.warm_start``, the
        base model with the adapter that the run began with (``AdaptedModel.as_it_began``). It is computed
        once an example where activations are kept, and by ``forward`` itself elsewhere.
        """


@runtime_checkable
class PublicFilesTask(Protocol):
    """A task on files: a folder of them may say what its models' features are like, public ones."""

    def read_public(self, folder: Path) -> tuple[Any, ...]:
        """What the files of a public folder hold, as rows' contents. Raises DataError without a folder."""


@runtime_checkable
class RegionTask(Protocol):
    """A task whose answers are regions, so that the distances between their edges can be told.

    ``distance_unit`` is what these are in.
    """

    distance_unit: str

    def regions(self, reader: Any, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Numbers of places, [b, …] as an outcome's masks have them, where these are in space."""

    def spacing(self, reader: Any) -> tuple[float, ...]:
        """How far neighbours along each axis are apart."""


@runtime_checkable
class WritingTask(Protocol):
    """A task whose examples have in them what the model itself writes, as a round finds it.

    Attributes:
        judges: the keys of its section that are tables with the ``source`` of another model.
    """

    judges: tuple[str, ...]

    def complete(
        self, adapted: AdaptedModel, examples: Examples, *, adapter: NDArray[np.float32], seed: int
    ) -> Examples:
        """The examples with what the model writes with ``adapter``, float32[adapter_size], in them.

        Sizes and order are as they were. What is written into one follows from that one, the adapter, the
        seed and its place, whichever others are asked for and in whatever order. It never raises because of
        what an example holds.
        """


@runtime_checkable
class AnsweringTask(Protocol):
    """A task whose models write, so that people can read what they say."""

    def shown(self, section: Any) -> int:
        """How many held-out examples the model answers for the report."""

    def answer(self, adapted: AdaptedModel, examples: Examples, *, seed: int) -> Sequence[Answer]:
        """What the model with its adapter says, example by example."""


class Gate(Protocol):
    """A custodian's rules on what is let into training, as ``[data.ALIAS.gate]`` of ``site.toml`` has them.

    Each row is judged by itself, and one that stays out is a blank example: whose row it is and how many
    there are shows nowhere but at the site, and a row that comes or goes decides about no other.
    """

    def fault(self, content: Any) -> str | None:
        """Why a row stays out, in a few words that do not quote it; None if it passes."""


@runtime_checkable
class GatedTask(Protocol):
    """A task whose rows a custodian may have rules on: ``Gate`` has their keys, and is one as above."""

    Gate: type[TaskKeys]

    def judged(self, content: Any) -> Any:
        """What the gate looks at of a row's content."""


@runtime_checkable
class SummingTask(Protocol):
    """A task whose rounds add to one sum, so that no round before the last has a better model.

    ``adds_up`` says why its held-out loss does not tell which round is best.
    """

    adds_up: str


@runtime_checkable
class HubTask(Protocol):
    """A task that the Hub has a name for: ``pipeline``, as "text-classification"."""

    pipeline: str


@runtime_checkable
class ProgramTask(Protocol):
    """A task that exports some pretrained models, too, with a program that loads them."""

    def has_program(self, source: str) -> bool:
        """Whether the model at a place is one of those."""
