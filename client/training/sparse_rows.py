"""Gradients that are not held as whole tensors, [b, *shape].

Few examples of a batch reach some tensors, such as one expert's: the others' rows are zero. They are
PyTorch's sparse tensors of one sparse dimension: what is kept is an index and a row for each example that
has one. Gradients of wide linear layers are held as ``Factors``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.factored_gradients import Factors

_Gradient = torch.Tensor | Factors


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


def dense(gradients: Mapping[str, _Gradient]) -> dict[str, torch.Tensor]:
    """All rows of all tensors, those that are zero too, and products in place of factors."""
    return {name: _dense(rows) for name, rows in gradients.items()}


def _dense(rows: _Gradient) -> torch.Tensor:
    if isinstance(rows, Factors):
        return rows.whole()
    return rows.to_dense() if rows.is_sparse else rows


def numbers(gradients: Mapping[str, _Gradient]) -> torch.Tensor:
    """All that is known of each example: [b, n]. Of factors that are the factors themselves."""
    held = [g.numbers if isinstance(g, Factors) else _dense(g).flatten(1) for g in gradients.values()]
    return torch.cat(held, dim=1)


def take(gradients: Mapping[str, _Gradient], rows: torch.Tensor) -> dict[str, _Gradient]:
    """The gradients of the examples at ``rows``, int64[k]."""
    return {
        name: found.take(rows.to(found.inputs.device))
        if isinstance(found, Factors)
        else found.index_select(0, rows.to(found.device))
        for name, found in gradients.items()
    }


def joined(parts: Sequence[Mapping[str, _Gradient]]) -> dict[str, _Gradient]:
    """The gradients of several batches' examples, one batch after another.

    Where some are held as factors all are, blank ones beside them too: what one example adds to a sum must
    not round otherwise because another is blank. Raises PrivacyUnitError for others beside factors.
    """
    found = dict[str, _Gradient]()
    for name in parts[0]:
        held = [part[name] for part in parts]
        factors = [each for each in held if isinstance(each, Factors)]
        tensors = [each for each in held if not isinstance(each, Factors)]
        if not factors:
            found[name] = _cat(tensors)
            continue
        if any(tensor.count_nonzero() for tensor in tensors):
            raise PrivacyUnitError(
                f"{name} is held as factors of some examples of a batch and not of others"
            )
        blank = factors[0]
        all_factors = [
            each if isinstance(each, Factors) else Factors.blank(len(each), like=blank) for each in held
        ]
        found[name] = Factors.joined(all_factors, dim=0)
    return found


def _cat(tensors: list[torch.Tensor]) -> torch.Tensor:
    if any(tensor.is_sparse for tensor in tensors):
        tensors = [tensor if tensor.is_sparse else tensor.to_sparse(1) for tensor in tensors]
    return torch.cat(tensors)
