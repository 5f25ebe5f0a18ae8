"""Layers that are computed again on the way back, in place of keeping what they made of a batch.

A layer keeps its input alone: what it computes on the way to its output is computed a second time when its
gradient is due. Memory for activations falls from all that all layers make to their inputs and one layer.
The second time takes the same numbers in the same order, so gradients are the same to the last bit.

A layer's ``forward`` is what is computed again, and not the call around it, in which hooks run once: kept
activations of lower layers are put in a layer's place by a hook that is gone on the way back. With
``device.offload`` a layer's weights are on the device for as long as that takes.

Source: Chen et al. 2016 (arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from privacy.errors import ModelError
from tasks.model.model_layers import layer_lists
from tasks.model.parked_weights import ParkedWeights, settle
from tasks.model.routed_experts import RoutedExperts

# The key for which layers are computed again.
Key: TypeAlias = Literal["model.checkpointing", "device.offload"]


def recompute_layers(model: nn.Module, *, key: Key) -> None:
    """Have each of a model's layers computed again on the way back, as ``key`` asks.

    Raises ModelError for a model without a plain list of layers, or with pairs on routed experts: these
    give each row copies of its own as a batch passes, and a second pass would make others.
    """
    for layer in _layers(model, key):
        layer.forward = _Recomputed(layer.forward)


def offload_layers(model: nn.Module, *, device: torch.device, resident: Collection[int]) -> None:
    """Put a model on a device, but for its layers' weights, which are there while their layer computes.

    Of the layers, tensors whose ``id`` is in ``resident`` are on the device, too. Raises ModelError as
    ``recompute_layers`` does.
    """
    parked = set[int]()
    for layer in _layers(model, "device.offload"):
        weights = ParkedWeights(layer, device=device, resident=resident)
        parked |= weights.ids
        layer.forward = _Recomputed(_Offloaded(layer.forward, weights))
    settle(model, device, parked=parked)


def _layers(model: nn.Module, key: Key) -> list[Any]:
    if any(isinstance(module, RoutedExperts) for module in model.modules()):
        raise ModelError(
            f"{key}: expected false with adapters on routed experts, whose rows get copies of their own "
            "as a batch passes: a second pass would make others. Leave the experts out of "
            "adapter.target_modules"
        )
    lists = layer_lists(model)
    if not lists:
        raise ModelError(f"{key}: expected false with this model, which has no plain list of its layers")
    return [layer for found in lists for layer in found.layers]


class _Offloaded:
    """A layer's forward pass with weights that are brought for it."""

    def __init__(self, forward: Callable[..., Any], weights: ParkedWeights) -> None:
        self._forward, self._weights = forward, weights

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._weights.brought():
            return self._forward(*args, **kwargs)


class _Recomputed:
    """A layer's forward pass, of which the way back finds nothing but the inputs."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        # The other kind knows no ``torch.autograd.grad``, which is how rows' gradients are found.
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
