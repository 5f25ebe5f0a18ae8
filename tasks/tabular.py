"""Rows of a table: which of a few labels a row of numbers and categories has."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from protocol.job.data_section import SourceKeys
from protocol.plain_text import MOST_LABELS, Label, Place, Word
from tasks.data.cells_gate import CellsGate
from tasks.data.feature_columns import Cells, FeatureColumns, is_nothing
from tasks.data.rows import Rows, present
from tasks.label_outcome import AUC, BALANCED_ACCURACY, BRIER, CALIBRATION, MACRO_F1
from tasks.labelled_keys import DeclaredLabels, LabelledKeys
from tasks.measures import ACCURACY, LOSS
from tasks.network_task import NetworkTask, Range, check_ranges
from tasks.task import TaskKeys, Units

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.dense_examples import DenseExamples
    from tasks.data.leaf_columns import LeafColumns
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_WIDTH = 64  # of the hidden layers
_MOST_COLUMNS, _MOST_INPUTS = 1000, 10_000

_Categories = Annotated[list[Label], Field(min_length=1, max_length=MOST_LABELS)]


class TabularKeys(LabelledKeys):
    """The columns of a table: what is written here of them is public, and no row decides about it."""

    numbers: dict[Word, Range] = Field(
        default_factory=dict, max_length=_MOST_COLUMNS, description="by column, from where to where it goes"
    )
    categories: dict[Word, _Categories] = Field(
        default_factory=dict,
        max_length=_MOST_COLUMNS,
        description="by column, the categories that are known",
    )

    @property
    def features(self) -> FeatureColumns:
        """The columns as a network reads them."""
        return FeatureColumns(
            numbers={name: (low, high) for name, (low, high) in self.numbers.items()},
            categories={name: tuple(known) for name, known in self.categories.items()},
        )

    @model_validator(mode="after")
    def _columns(self) -> Self:
        check_ranges("numbers", self.numbers)
        for name, known in self.categories.items():
            if any(is_nothing(one) or one != one.strip() for one in known) or len(set(known)) != len(known):
                raise ValueError(
                    f"categories.{name}: expected each once, without spaces around it, and none that says "
                    "that nothing is known: missing ones have a place of their own"
                )
        twice = sorted({*self.numbers} & {*self.categories}) or sorted(
            {self.label or ""} & {*self.numbers, *self.categories}
        )
        if twice:
            raise ValueError(
                f"{twice[0]}: expected a column to be one of a number, a category and the label"
            )
        if not (self.numbers or self.categories):
            raise ValueError("numbers: expected one column at least, here or in categories")
        if self.features.width > _MOST_INPUTS:
            raise ValueError(f"categories: expected at most {_MOST_INPUTS} in all")
        return self


class TabularSection(TabularKeys):
    """A job's keys: the leaves of public ``trees`` may be inputs beside the columns."""

    trees: Place | None = Field(
        None, description="a public model that LightGBM saved as text: a row's leaves in it are inputs, too"
    )


class TabularColumns(TabularKeys, DeclaredLabels):
    """A site's keys: rows with labels."""


class Tabular(NetworkTask):
    """Rows of numbers and categories, for a small network that is drawn and trained whole."""

    name = "tabular"
    about = "which of a few labels a row of numbers and categories has"
    units = Units(example="row", size="rows")
    measures = (AUC, ACCURACY, BALANCED_ACCURACY, MACRO_F1, BRIER, CALIBRATION, LOSS)
    Section: type[TabularSection] = TabularSection
    Columns: type[TabularKeys] = TabularColumns
    Gate: type[TaskKeys] = CellsGate

    def judged(self, content: Cells) -> Cells:
        """A row's cells."""
        return content

    def read(self, data: SourceKeys, columns: TabularKeys) -> Rows:
        """What each row holds of the declared columns, and its label; None where a row holds nothing.

        A cell that holds no finite number where one is declared counts as missing.
        """
        from tasks.data.read_table import read_table

        features, label = columns.features, columns.label
        table = read_table(data, columns=[*features.names, *([label] if label else [])])
        cells = {
            name: table.column(name, key="data.numbers" if name in columns.numbers else "data.categories")
            for name in features.names
        }
        labels = table.column(label, key="data.label") if label else None
        return Rows(
            contents=features.read(cells),
            labels=None if labels is None else tuple(map(present, labels)),
            faults=table.faults,
            remarks=features.remarks(cells),
        )

    def one_row_an_example(self, columns: TabularKeys) -> bool:  # noqa: ARG002
        """A row is an example."""
        return True

    def digest(self, content: Cells | None) -> bytes:
        """SHA-256 of the cells that hold something, 32 bytes: 1 and 1.0 are one, and so are two orders."""
        held = [cell for cell in content or () if cell[1]]
        return hashlib.sha256(json.dumps(held).encode()).digest()

    def load(
        self,
        job: Job,
        section: TabularSection,
        *,
        labels: tuple[str, ...],
        device: Device,  # noqa: ARG002
    ) -> BaseModel:
        """The network with as many inputs as the columns make, and the trees' leaves, if it has trees.

        It is drawn from ``seeds.adapter``. What decides a leaf is in its digest.
        """
        from tasks.model.drawn_network import load_drawn
        from tasks.model.tabular_network import TabularNetwork

        reader, content = _open(section)
        base = load_drawn(
            lambda: TabularNetwork(inputs=reader.width, labels=list(labels), width=_WIDTH),
            seed=job.seeds.adapter,
            last="classifier",
            reads=reader.as_table(),
            reader=reader,
        )
        if isinstance(reader, FeatureColumns):
            return base
        sizes = reader.trees.sizes
        return replace(
            base,
            files={"trees": content},
            remarks=(
                *base.remarks,
                f"It reads a row's leaves in {len(sizes)} frozen trees with {sum(sizes)} leaves, which the "
                f"job says are public; SHA-256 of what decides a leaf is {reader.trees.digest}.",
            ),
        )

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> DenseExamples:
        """Tensors of any numbers from -1 to 1, and any leaves."""
        found, reader = super().made_up(adapted, random, sizes), adapted.base.reader
        if isinstance(reader, FeatureColumns):
            return found
        values = reader.with_any_leaves(found.arrays["values"], random)
        return replace(found, arrays={**found.arrays, "values": values})

    def scaled(self, values: torch.Tensor, reader: FeatureColumns | LeafColumns) -> torch.Tensor:
        """Values as they are kept, and for each leaf of a tree whether it is the row's."""
        return values if isinstance(reader, FeatureColumns) else reader.opened(values)

    def open_reader(self, source: str, columns: TabularKeys) -> FeatureColumns:  # noqa: ARG002
        """The columns as the custodian declares them: no model says more."""
        return columns.features


def _open(section: TabularSection) -> tuple[FeatureColumns | LeafColumns, bytes]:
    """What reads rows for a job, and the content of its trees' file, empty without.

    Raises ModelError for trees that cannot be had, or read other columns.
    """
    if section.trees is None:
        return section.features, b""
    from tasks.data.leaf_columns import LeafColumns
    from tasks.data.tree_file import read_tree_file, trees_in

    content = read_tree_file(section.trees)
    found = LeafColumns(features=section.features, trees=trees_in(content))
    found.check()
    return found, content


TASK = Tabular()
