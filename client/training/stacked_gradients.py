"""Per-example gradients by giving each row of a batch weights of its own.

Where all that is trained are weights of linear layers, as LoRA's halves and a head are, a batch of b rows
can be computed with b copies of them, [b, out, in], by a batched product. What automatic differentiation
finds for a row's copy is that row's gradient, so no hook is needed, and nothing is computed twice: it costs
what training without privacy costs. The copies need not be equal: rows of several sites, each with an
adapter of its own, may share a batch. Routed experts have copies for the rows alone that reach them
(``RoutedRows``).

Source: Goodfellow 2015 (arXiv:1510.01799) for a layer's gradients row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from client.training.gradients import Gradients, Loss, of_examples
from client.training.routed_rows import RoutedRows
from privacy.errors import PrivacyUnitError
from tasks.data.examples import Batch
from tasks.model.adapted_model import AdaptedModel

# By a trained tensor's name: [b, *shape], the weights that each row of a batch is computed with.
RowWeights = Mapping[str, torch.Tensor]
# Modules, and the names in the layout of their own tensors.
_Layers = list[tuple[nn.Module, dict[str, str]]]


class StackedGradients:
    """A batch at once, for models of which only linear layers and routed experts are trained.

    Raises PrivacyUnitError if something else is trained, naming it.
    """

    batched = True

    def __init__(self, adapted: AdaptedModel) -> None:
        self.adapted = adapted
        self._found: dict[tuple[str, ...], tuple[_Layers, RoutedRows]] = {}
        self._layers()

    def _layers(self) -> tuple[_Layers, RoutedRows]:
        """The layers with trained tensors, which rounds may change: each set is looked for once."""
        trained = self.adapted.trained
        if tuple(trained) not in self._found:
            routed = RoutedRows(self.adapted)
            linear = {name: p for name, p in trained.items() if name not in routed.trained}
            self._found[tuple(trained)] = _find_layers(self.adapted, linear), routed
        return self._found[tuple(trained)]

    def backward(self, batch: Batch, loss: Loss) -> Gradients:
        """As all rows are computed with the adapter that is loaded."""
        rows = len(batch)
        shared = {name: p.detach().expand(rows, *p.shape) for name, p in self.adapted.trained.items()}
        return self.backward_with(shared, batch, loss)

    def backward_with(self, weights: RowWeights, batch: Batch, loss: Loss) -> Gradients:
        """One gradient an example, each with its own row's weights; those that are loaded do not matter."""
        trained, (layers, routed) = self.adapted.trained, self._layers()
        own = {
            name: weights[name].detach().requires_grad_() for name in trained if name not in routed.trained
        }
        with (
            _computed_with(layers, own, batch),
            routed.copied(weights, rows=len(batch)) as copies,
        ):
            total = loss(batch).sum()
            tensors = [*own.values(), *(copy.tensor for copy in copies)]
            found = torch.autograd.grad(total, tensors, allow_unused=True)
        every = {
            name: of_examples(name, rows, batch, like=trained[name])
            for name, rows in zip(own, found, strict=False)
        }
        every |= routed.gradients(copies, found[len(own) :], batch)
        return {name: every[name] for name in trained}


@contextmanager
def _computed_with(layers: _Layers, weights: RowWeights, batch: Batch) -> Iterator[None]:
    """Within this block the layers take each example's own weights, for all of its rows."""
    try:
        for module, slots in layers:
            own = {slot: weights[name] for slot, name in slots.items()}
            module.forward = _RowLinear(
                own, len(batch), rows_an_example=batch.rows_an_example, shared=module
            )
        yield
    finally:
        for module, _ in layers:
            vars(module).pop("forward", None)


def _find_layers(adapted: AdaptedModel, trained: Mapping[str, nn.Parameter]) -> _Layers:
    names = {id(parameter): name for name, parameter in trained.items()}
    layers = [
        (
            module,
            {slot: names[id(p)] for slot, p in module.named_parameters(recurse=False) if id(p) in names},
        )
        for module in adapted.peft.modules()
        if any(id(parameter) in names for parameter in module.parameters(recurse=False))
    ]
    for module, slots in layers:
        if type(module).forward is not nn.Linear.forward or "forward" in vars(module):
            raise PrivacyUnitError(f"{min(slots.values())} is not of a plain linear layer")
    return layers


class _RowLinear:
    """A linear layer's forward pass with each row's weights, [b, out, in], and perhaps biases, [b, out].

    What of these is not trained the layer itself has, for all rows: ``shared``.
    """

    def __init__(self, tensors: RowWeights, rows: int, *, rows_an_example: int, shared: Any) -> None:
        self._weight, self._bias, self._rows = tensors.get("weight"), tensors.get("bias"), rows
        self._given = rows * rows_an_example
        self._shared = shared

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """[b, …, in] to [b, …, out]. Raises PrivacyUnitError where the layer's rows are no examples."""
        if len(values) != self._given:
            raise PrivacyUnitError(
                f"a trained layer is given {len(values)} rows in a batch of {self._rows} examples: it "
                "counts something else, such as tokens, as examples. Choose other adapter.target_modules"
            )
        # An example's rows follow one another: they become one, whose gradient is the sum of theirs.
        flat = values.reshape(self._rows, -1, values.shape[-1])
        if self._weight is None:
            found = nn.functional.linear(flat, self._shared.weight)
        else:
            found = torch.bmm(flat, self._weight.transpose(1, 2))
        if self._bias is not None:
            found = found + self._bias.unsqueeze(1).to(found.dtype)
        elif self._shared.bias is not None:
            found = found + self._shared.bias.to(found.dtype)
        return found.reshape(*values.shape[:-1], -1)
