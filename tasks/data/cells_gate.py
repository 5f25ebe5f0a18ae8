"""Which rows of a table a custodian lets into training: a rule on each by itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.data.feature_columns import Cells
from tasks.task import TaskKeys


class CellsGate(TaskKeys):
    """``most_missing`` is the share of a row's cells, of the columns that are used, that may be missing."""

    most_missing: Annotated[float, Field(ge=0, lt=1)] | None = None

    def fault(self, cells: Cells) -> str | None:
        """Why a row stays out; None if it passes."""
        missing = sum(not value for _name, value in cells)
        if self.most_missing is not None and missing > self.most_missing * len(cells):
            return f"the gate: more than {self.most_missing:g} of its cells are missing"
        return None
