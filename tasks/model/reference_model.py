"""What a task compares a trained model with: the model as its training began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from privacy.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """What a layer's A and B were when training began, and what their product counts."""

    first: torch.Tensor
    last: torch.Tensor
    scale: float

    def __call__(
        self, _layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], made: torch.Tensor
    ) -> torch.Tensor:
        """What the layer makes without any adapter, and what this pair adds to it, as PEFT adds it."""
        given: torch.Tensor = next(iter((*args, *kwargs.values())))
        inner = functional.linear(given.to(self.first.dtype), self.first)
        return (made + functional.linear(inner, self.last) * self.scale).to(made.dtype)


class ReferenceModel:
    """The base model, or the base model with the adapter that a run began with.

    The adapted layers compute it with tensors of its own. So nothing that is loaded or trained moves it,
    it moves nothing of theirs, and it is the same within any method that finds per-example gradients.
    ``parameters`` are all that is trained or sent of ``peft``, by their names in the layout.
    """

    def __init__(
        self, peft: Any, parameters: Mapping[str, nn.Parameter], *, adapter: str, task: str
    ) -> None:
        self._peft, self._parameters = peft, parameters
        self._adapter, self._task = adapter, task
        self._pairs: list[tuple[nn.Module, _Pair]] = []

    def begin_with(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the pairs among these tensors, named as in the layout, for those that training began with.

        Raises ModelError for a pair that is not of linear layers.
        """
        found = []
        for layer in (name.partition(".lora_A.")[0] for name in tensors if ".lora_A." in name):
            module = self._peft.get_submodule(layer)
            halves = [module.lora_A[self._adapter], module.lora_B[self._adapter]]
            if not all(isinstance(half, nn.Linear) for half in halves):
                raise ModelError(
                    f"adapter.target_modules: expected linear layers with training.warm_start and "
                    f'task="{self._task}", which compares the model with what it began as, got {layer}'
                )
            first, last = (
                torch.from_numpy(tensors[f"{layer}.lora_{side}.weight"].copy()).to(half.weight.device)
                for side, half in zip("AB", halves, strict=True)
            )
            pair = _Pair(first=first, last=last, scale=float(module.scaling[self._adapter]))
            # The layer itself: its place, and so its name, may be another where lower ones are left out.
            found.append((module, pair))
        self._pairs = found

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this block the adapted layers are as training began, whatever is trained.

        Raises ModelError where something is trained that cannot be left out.
        """
        # PEFT's own way would set anew which parameters are trained.
        for layer in self._layers:
            layer._disable_adapters = True
        try:
            with ExitStack() as hooks:
                for module, pair in self._pairs:
                    hooks.callback(module.register_forward_hook(pair, with_kwargs=True).remove)
                yield
        finally:
            for layer in self._layers:
                layer._disable_adapters = False

    @cached_property
    def _layers(self) -> tuple[Any, ...]:
        """The layers that can compute without what is trained, which is all theirs."""
        layers = [module for module in self._peft.modules() if hasattr(module, "_disable_adapters")]
        theirs = {id(parameter) for layer in layers for parameter in layer.parameters()}
        for name, parameter in self._parameters.items():
            if id(parameter) not in theirs:
                raise ModelError(
                    f"adapter.target_modules: {name} cannot be left out, and "
                    f'task="{self._task}" compares the model with what it was before its training: '
                    "name other layers"
                )
        return tuple(layers)
