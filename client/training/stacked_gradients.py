"""Per-example gradients by giving each row of a batch weights of its own.

Where all that is trained are weights of linear layers, as LoRA's halves and a head are, a batch of b rows
can be computed with b copies of them, [b, out, in], by a batched product. What automatic differentiation
finds for a row's copy is that row's gradient, so no hook is needed, and nothing is computed twice: it costs
what training without privacy costs. The copies need not be equal: rows of several sites, each with an
adapter of its own, may share a batch. Routed experts have copies for the rows alone that reach them
(``RoutedRows``).

Where an example has few places at a wide layer, as it has one at a head, its gradient is not computed: what
the layer was given and the gradients of what it made of that are kept, which are far fewer numbers, and
clipping multiplies them (``Factors``). Which layers these are follows from shapes, which are public.

Sources: Goodfellow 2015 (arXiv:1510.01799) for a layer's gradients row by row; Bu et al. 2022 for choosing
by shape, layer by layer (arXiv:2205.10683), and for keeping factors (arXiv:2210.00038).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from client.training.gradients import Found, Loss, of_examples
from client.training.routed_rows import RoutedRows
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.factored_gradients import Factors, numbers_spared
from tasks.data.examples import Batch
from tasks.model.adapted_model import AdaptedModel

# By a trained tensor's name: [b, *shape], the weights that each row of a batch is computed with.
RowWeights = Mapping[str, torch.Tensor]
# Modules, and the names in the layout of their own tensors.
_Layers = list[tuple[nn.Module, dict[str, str]]]
# Factors are kept where they are so many times fewer numbers than the gradient: benchmarks/ghost.py.
_SPARED = 8


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

    def backward(self, batch: Batch, loss: Loss) -> Found:
        """As all rows are computed with the adapter that is loaded."""
        rows = len(batch)
        shared = {name: p.detach().expand(rows, *p.shape) for name, p in self.adapted.trained.items()}
        return self.backward_with(shared, batch, loss)

    def backward_with(self, weights: RowWeights, batch: Batch, loss: Loss) -> Found:
        """One gradient an example, each with its own row's weights; those that are loaded do not matter."""
        trained, (layers, routed) = self.adapted.trained, self._layers()
        own = {
            name: weights[name].detach().requires_grad_() for name in trained if name not in routed.trained
        }
        with (
            _computed_with(layers, own, batch, least_spared=self._least_spared()) as uses,
            routed.copied(weights, rows=len(batch)) as copies,
        ):
            total = loss(batch).sum()
            tensors = [*own.values(), *(copy.tensor for copy in copies), *(use.outputs for use in uses)]
            found: Sequence[torch.Tensor | None] = torch.autograd.grad(total, tensors, allow_unused=True)
        first, last = len(own), len(own) + len(copies)
        kept = _kept_factors(uses, found[last:], count=len(batch.indices))
        every: dict[str, torch.Tensor | Factors] = {}
        for name, gradient in zip(own, found[:first], strict=True):
            if name not in kept:
                every[name] = of_examples(name, gradient, batch, like=trained[name])
            elif gradient is None:
                every[name] = kept[name]
            else:  # a weight that is used by layers in which factors are small, and by others
                every[name] = of_examples(name, gradient, batch, like=trained[name]) + kept[name].whole()
        every |= routed.gradients(copies, found[first:last], batch)
        return {name: every[name] for name in trained}

    def _least_spared(self) -> float:
        """How many times fewer numbers factors must be than a gradient for them to be kept.

        Never are they where layers are computed again on the way back, as other tensors than those that
        were kept, nor on Apple's GPUs, which have no float64 to multiply them in.
        """
        adapted = self.adapted
        able = adapted.recomputed_for is None and adapted.device.torch.type != "mps"
        return _SPARED if able else math.inf


@dataclass(frozen=True, kw_only=True)
class _Use:
    """A layer's pass in which factors are kept: ``outputs``, [b, t, out], is a zero that was added to it.

    What autograd finds for that zero is the gradient of what the layer made, whatever is done to it after.
    """

    name: str
    inputs: torch.Tensor
    outputs: torch.Tensor


def _kept_factors(
    uses: Sequence[_Use], gradients: Sequence[torch.Tensor | None], *, count: int
) -> dict[str, Factors]:
    """Of the batch's examples, by the weight's name: several uses of one are places of one gradient."""
    found: dict[str, list[Factors]] = {}
    for use, gradient in zip(uses, gradients, strict=True):
        outputs = torch.zeros_like(use.outputs) if gradient is None else gradient
        found.setdefault(use.name, []).append(Factors(inputs=use.inputs[:count], outputs=outputs[:count]))
    return {name: Factors.joined(parts, dim=1) for name, parts in found.items()}


@contextmanager
def _computed_with(
    layers: _Layers, weights: RowWeights, batch: Batch, *, least_spared: float
) -> Iterator[list[_Use]]:
    """Within this block the layers take each example's own weights, for all of its rows.

    Where factors are kept, the layers' uses are in the list after a forward pass.
    """
    uses = list[_Use]()
    try:
        for module, slots in layers:
            own = {slot: weights[name] for slot, name in slots.items()}
            module.forward = _RowLinear(
                own,
                len(batch),
                rows_an_example=batch.rows_an_example,
                shared=module,
                keep=_Keep(slots.get("weight", ""), uses, least_spared),
            )
        yield uses
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


class _Keep:
    """Where a weight's factors go, if an example's are so many times fewer numbers than its gradient."""

    def __init__(self, name: str, uses: list[_Use], least_spared: float) -> None:
        self._name, self._uses, self._least = name, uses, least_spared

    def wants(self, values: torch.Tensor, weight: torch.Tensor) -> bool:
        return numbers_spared(places=values.shape[1], shape=weight.shape[1:]) >= self._least

    def use(self, values: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """What the layer made of ``values``, with a zero added that autograd finds a gradient for."""
        zero = torch.zeros((), dtype=made.dtype, device=made.device).expand(made.shape).requires_grad_()
        # In the precision that they are multiplied in, which is lower than theirs where it is mixed.
        self._uses.append(_Use(name=self._name, inputs=values.detach().to(made.dtype), outputs=zero))
        return made + zero


class _RowLinear:
    """A linear layer's forward pass with each row's weights, [b, out, in], and perhaps biases, [b, out].

    What of these is not trained the layer itself has, for all rows: ``shared``.
    """

    def __init__(
        self, tensors: RowWeights, rows: int, *, rows_an_example: int, shared: Any, keep: _Keep
    ) -> None:
        self._weight, self._bias, self._rows = tensors.get("weight"), tensors.get("bias"), rows
        self._given = rows * rows_an_example
        self._shared, self._keep = shared, keep

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
        elif self._keep.wants(flat, self._weight):
            made = torch.bmm(flat, self._weight.detach().transpose(1, 2))
            found = self._keep.use(flat, made)
        else:
            found = torch.bmm(flat, self._weight.transpose(1, 2))
        if self._bias is not None:
            found = found + self._bias.unsqueeze(1).to(found.dtype)
        elif self._shared.bias is not None:
            found = found + self._shared.bias.to(found.dtype)
        return found.reshape(*values.shape[:-1], -1)
