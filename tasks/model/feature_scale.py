"""A classifier's features, centred and scaled before its head by numbers that come with the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from privacy.errors import ModelError
from protocol.job.folded_features import folded
from protocol.job.layout import FEATURE_MEAN, FEATURE_SCALE


@dataclass(kw_only=True)
class _Layer:
    """The trained linear layer of a head, and what it is given less, and times."""

    module: nn.Linear
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    numbers: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def put(self, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
        self.mean, self.scale = mean.copy(), scale.copy()
        self.numbers.clear()

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if device not in self.numbers:
            mean, scale = (torch.from_numpy(one).to(device) for one in (self.mean, self.scale))
            self.numbers[device] = mean, scale
        return self.numbers[device]

    def before(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the layer is called with: (x - mean) · scale, in float32."""
        mean, scale = self.on(args[0].device)
        return (args[0] - mean) * scale, *args[1:]


class FeatureScale:
    """What a head's linear layers are given, (x - mean) · scale by coordinate, if that is ``wanted``.

    Mean and scale, float32[width], are frozen tensors of the adapter: so all sites have the same, bit for
    bit, and they are zero and one until an adapter is loaded. An export has them in the layer's own weight
    and bias (``fold``, and ``protocol.job.folded_features``). Raises ModelError for a head that is no
    linear layer with a bias.
    """

    def __init__(self, peft: Any, *, head: tuple[str, ...], adapter: str, wanted: bool) -> None:
        self._layers: dict[str, _Layer] = {}
        for name in head if wanted else ():
            module = peft.get_submodule(f"base_model.model.{name}").modules_to_save[adapter]
            if not isinstance(module, nn.Linear) or module.bias is None:
                raise ModelError(
                    f"model.features: expected none with this model, whose head {name} is no linear layer "
                    "with a bias, into which a mean and a scale can be folded"
                )
            width = module.in_features
            mean, scale = np.zeros(width, np.float32), np.ones(width, np.float32)
            layer = _Layer(module=module, mean=mean, scale=scale)
            module.register_forward_pre_hook(layer.before)
            self._layers[f"base_model.model.{name}"] = layer
        if wanted and not self._layers:
            raise ModelError("model.features: expected none with a model that has no head of its own")

    @property
    def layers(self) -> dict[str, nn.Linear]:
        """The layers that are scaled, by their names in the layout."""
        return {name: layer.module for name, layer in self._layers.items()}

    @property
    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Means and scales as they are now, by their names in the layout."""
        means = {name + FEATURE_MEAN: layer.mean for name, layer in self._layers.items()}
        return means | {name + FEATURE_SCALE: layer.scale for name, layer in self._layers.items()}

    @property
    def at_first(self) -> dict[str, NDArray[np.float32]]:
        """Zero and one, with which features stay as they come, by the same names."""
        now = self.tensors
        return {name: np.full_like(tensor, name.endswith(FEATURE_SCALE)) for name, tensor in now.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Their shapes."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def put(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take these means and scales, by name among others', in the place of those before."""
        for name, layer in self._layers.items():
            layer.put(tensors[name + FEATURE_MEAN], tensors[name + FEATURE_SCALE])

    def fold(self) -> None:
        """Make the layers compute the same of features as they come. They can be trained no further."""
        for name, layer in self._layers.items():
            module = layer.module
            weight, bias = (
                one.detach().cpu().numpy().astype(np.float64) for one in (module.weight, module.bias)
            )
            found = folded({f"{name}.weight": weight, f"{name}.bias": bias} | self.tensors)
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(found[f"{name}.weight"]))
                module.bias.copy_(torch.from_numpy(found[f"{name}.bias"]))
            layer.put(np.zeros_like(layer.mean), np.ones_like(layer.scale))
            module._forward_pre_hooks.clear()
