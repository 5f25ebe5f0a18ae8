"""Gradients of tensors that few examples of a batch reach, such as one expert's: the others' rows are zero.

They are PyTorch's sparse tensors of one sparse dimension, [b, *shape]: what is kept is an index and a row
for each example that has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch


def sparse_rows(
    found: Sequence[tuple[int, torch.Tensor]], *, count: int, like: torch.Tensor
) -> torch.Tensor:
    """The gradients of ``count`` examples, [count, *shape], from those that were found, each with its row.

    Several of one example are added up; those of rows from ``count`` on, which are blank, are left out.
    """
    kept = [(row, gradient) for row, gradient in found if row < count]
    rows = torch.tensor([[row for row, _ in kept]], dtype=torch.int64, device=like.device)
    values = torch.stack([gradient for _, gradient in kept]) if kept else like.new_zeros((0, *like.shape))
    whole = torch.sparse_coo_tensor(rows, values, (count, *like.shape), check_invariants=True)
    return whole.coalesce()


def dense(gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All rows of all tensors, those that are zero too."""
    return {name: rows.to_dense() if rows.is_sparse else rows for name, rows in gradients.items()}


def take(gradients: Mapping[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients of the examples at ``rows``, int64[k]."""
    return {name: found.index_select(0, rows.to(found.device)) for name, found in gradients.items()}


def joined(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The gradients of several batches' examples, one batch after another."""
    return {name: _cat([part[name] for part in parts]) for name in parts[0]}


def _cat(tensors: list[torch.Tensor]) -> torch.Tensor:
    if any(tensor.is_sparse for tensor in tensors):
        tensors = [tensor if tensor.is_sparse else tensor.to_sparse(1) for tensor in tensors]
    return torch.cat(tensors)
