"""Per-example gradients of routed experts: each row of a batch has copies of the pairs that it reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from client.training.gradients import Gradients
from client.training.sparse_rows import sparse_rows
from tasks.data.examples import Batch
from tasks.model.adapted_model import AdaptedModel
from tasks.model.routed_experts import RoutedExperts


class RoutedRows:
    """The trained tensors of a model's routed experts, which are found by copies of them.

    ``trained`` has them by their names in the layout. A copy is of one tensor for one row that has a token
    at its expert, and lies where the tensor lies: what autograd finds for it is that row's gradient.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self._modules = [module for module in adapted.peft.modules() if isinstance(module, RoutedExperts)]
        inside = {id(parameter) for module in self._modules for parameter in module.parameters()}
        self.trained = {name: p for name, p in adapted.trained.items() if id(p) in inside}
        self._names = {id(parameter): name for name, parameter in self.trained.items()}

    @contextmanager
    def copied(self, weights: Mapping[str, torch.Tensor], *, rows: int) -> Iterator[list[Copy]]:
        """Within this block each row is computed with its own of ``weights``, [rows, *shape] by name.

        The copies are in the list after a forward pass.
        """
        copies = list[Copy]()

        def copy(half: nn.Parameter, row: int) -> torch.Tensor:
            name = self._names.get(id(half))
            if name is None:  # not trained in this round
                return half
            copies.append(Copy(name, row, weights[name][row]))
            return copies[-1].tensor

        with ExitStack() as stack:
            for module in self._modules:
                stack.enter_context(module.rows_apart(rows, copy))
            yield copies

    def gradients(
        self, copies: Sequence[Copy], found: Sequence[torch.Tensor | None], batch: Batch
    ) -> Gradients:
        """What was found for the copies, as the examples' gradients: [b, *shape] by name, sparse."""
        of_tensor: dict[str, list[tuple[int, torch.Tensor]]] = {name: [] for name in self.trained}
        for copy, gradient in zip(copies, found, strict=True):
            if gradient is not None:
                of_tensor[copy.name].append((copy.row, gradient))
        return {
            name: sparse_rows(rows, count=len(batch.indices), like=self.trained[name])
            for name, rows in of_tensor.items()
        }


class Copy:
    """One row's own copy of a tensor, which takes no memory: ``tensor`` lies where the weights lie."""

    def __init__(self, name: str, row: int, weight: torch.Tensor) -> None:
        self.name, self.row = name, row
        self.tensor = weight.detach().requires_grad_()
