"""What the frozen model makes of examples, and how the rows of one are kept as one."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What the frozen model makes of n examples.

    ``hidden``, [n, size, width], goes into the first adapted layer; ``reference``, [n, …], is what the
    model made of them in the end before training, where the task compares with that.
    """

    hidden: torch.Tensor
    reference: torch.Tensor | None

    def part(self, start: int, end: int) -> Computed:
        """That of the examples from one place to another."""
        known = None if self.reference is None else self.reference[start:end]
        return Computed(hidden=self.hidden[start:end], reference=known)


def side_by_side(rows: torch.Tensor, together: int) -> torch.Tensor:
    """[b · together, t, width] as [b, t, together · width]: all that is kept of a place in one row."""
    if together == 1:
        return rows
    each = rows.reshape(-1, together, *rows.shape[1:])
    return each.transpose(1, 2).reshape(len(each), rows.shape[1], -1)


def one_by_one(hidden: torch.Tensor, together: int) -> torch.Tensor:
    """What ``side_by_side`` made of rows, as it was."""
    if together == 1:
        return hidden
    each = hidden.reshape(*hidden.shape[:2], together, -1)
    return each.transpose(1, 2).reshape(-1, hidden.shape[1], each.shape[-1])
