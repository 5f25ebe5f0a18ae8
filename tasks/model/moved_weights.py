"""Base weights that a rule moves: what they were when they were loaded, and what is added to them now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ModelError
from protocol.job.layout import RESIDUAL
from tasks.model.routed_experts import ExpertPair


@dataclass(frozen=True, kw_only=True)
class _Weight:
    """One adapted layer's own weight.

    ``scale`` is what PEFT multiplies B·A by, and so the residual; ``flipped`` says that the layer keeps its
    weight as [in, out].
    """

    parameter: torch.nn.Parameter
    original: torch.Tensor
    scale: float
    flipped: bool

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.parameter.shape
        return (columns, rows) if self.flipped else (rows, columns)

    def put(self, residual: NDArray[np.float32]) -> None:
        """Make the weight what it was and a residual, float32[out, in]."""
        added = torch.from_numpy(residual.T if self.flipped else residual).to(self.original.device)
        with torch.no_grad():
            # Always from the original: sums that were taken back again would leave their rounding.
            self.parameter.copy_(self.original + self.scale * added)

    def rest(self) -> None:
        """Make the weight what it was."""
        with torch.no_grad():
            self.parameter.copy_(self.original)


class MovedWeights:
    """The weights of adapted layers of a model, each with a residual; none unless they are ``wanted``.

    The model's digest is that of the model as it was loaded. Raises ModelError for a layer whose weight
    cannot be added to.
    """

    def __init__(self, peft: Any, *, adapter: str, wanted: bool) -> None:
        self._weights = dict(_find(peft, adapter)) if wanted else {}
        self.residuals: dict[str, NDArray[np.float32]] = {
            name: np.zeros(weight.shape, np.float32) for name, weight in self._weights.items()
        }

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The residuals' shapes, by their names in the layout."""
        return {name: weight.shape for name, weight in self._weights.items()}

    def put(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Add these residuals, float32[out, in] by name among others', in the place of those before."""
        for name, weight in self._weights.items():
            if not np.array_equal(self.residuals[name], tensors[name]):
                weight.put(tensors[name])
                self.residuals[name] = tensors[name].copy()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Within this block the weights are as they were loaded."""
        for weight in self._weights.values():
            weight.rest()
        try:
            yield
        finally:
            for name, weight in self._weights.items():
                weight.put(self.residuals[name])


def _find(peft: Any, adapter: str) -> Iterator[tuple[str, _Weight]]:
    holders: dict[int, int] = {}
    for module in peft.modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    for name, layer in peft.named_modules():
        if adapter not in getattr(layer, "lora_A", ()):
            continue
        if isinstance(layer, ExpertPair):
            raise ModelError(
                f"adapter.target_modules: {name} is one of a layer's routed experts, whose weights no "
                'residual moves: leave them out, or use a strategy without one, such as "fedsvd"'
            )
        weight = layer.get_base_layer().weight
        shape = (layer.lora_B[adapter].weight.shape[0], layer.lora_A[adapter].weight.shape[1])
        flipped = bool(layer.fan_in_fan_out)
        if not weight.is_floating_point() or tuple(weight.shape) != (shape[::-1] if flipped else shape):
            raise ModelError(
                f"adapter.target_modules: {name} has a packed weight, to which nothing can be added: use a "
                'strategy without a residual, such as "fedsvd", or a model that is not quantized'
            )
        if holders[id(weight)] > 1:
            raise ModelError(
                f"adapter.target_modules: {name} shares its weight with another layer, which would move "
                'too: leave it out, or use a strategy without a residual, such as "fedsvd"'
            )
        yield (
            name + RESIDUAL,
            _Weight(
                parameter=weight,
                original=weight.detach().clone(),
                scale=float(layer.scaling[adapter]),
                flipped=flipped,
            ),
        )
