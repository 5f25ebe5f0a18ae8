"""Frozen layers whose weights wait in main memory, and are on the device while their layer computes.

Autograd keeps a layer's weights from its forward pass until its gradient is due. So this stands inside a
layer that is computed again on the way back (``recomputed_layers``): the first pass keeps nothing, and the
copies of the second one go as soon as the gradients are found that need them. Embeddings, an output layer
and all that is trained stay on the device.

For a pass, copies stand where a layer's modules look for their weights. The weights themselves stay what
and where they are: whoever holds one, as what moves, merges or saves it does, finds the same tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class ParkedWeights:
    """One layer's parameters, but for those whose ``id`` is in ``resident``, and where they compute."""

    def __init__(self, layer: nn.Module, *, device: torch.device, resident: Collection[int]) -> None:
        self._device = device
        self._slots = [
            (module, name)
            for module in layer.modules()
            for name, weight in module._parameters.items()
            if weight is not None and id(weight) not in resident
        ]

    @property
    def ids(self) -> frozenset[int]:
        """Python's ``id`` of each."""
        return frozenset(id(module._parameters[name]) for module, name in self._slots)

    @contextmanager
    def brought(self) -> Iterator[None]:
        """Within this block the layer computes with copies on the device, and after it none are held here.

        However it ends: a second pass is broken off by an exception as soon as it has made what it is for.
        """
        tables: list[tuple[dict[str, Any], str, Any]] = [
            (module._parameters, name, module._parameters[name]) for module, name in self._slots
        ]
        try:
            for table, name, weight in tables:
                table[name] = bring(weight, self._device)
            yield
        finally:
            for table, name, weight in tables:
                table[name] = weight


def bring(weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a frozen weight on a device; the weight itself if it is there."""
    return weight.detach().to(device)


def settle(model: nn.Module, device: torch.device, *, parked: Collection[int]) -> None:
    """Put a model's tensors on a device in place, but for those whose ``id`` is in ``parked``."""
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in parked:
            tensor.data = tensor.data.to(device)
