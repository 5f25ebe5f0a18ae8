"""Layers that are computed again on the way back, in place of keeping what they made of a batch.

A layer keeps its input alone: what it computes on the way to its output is computed a second time when its
gradient is due. Memory for activations falls from all that all layers make to their inputs and one layer.
The second time takes the same numbers in the same order, so gradients are the same to the last bit.

A layer's ``forward`` is what is computed again, and not the call around it, in which hooks run once: kept
activations of lower layers are put in a layer's place by a hook that is gone on the way back.

Source: Chen et al. 2016 (arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from privacy.errors import ModelError
from tasks.model.model_layers import layer_lists
from tasks.model.routed_experts import RoutedExperts

_KEY = "model.checkpointing: expected false"


def recompute_layers(model: nn.Module) -> None:
    """Have each of a model's layers computed again on the way back.

    Raises ModelError for a model without a plain list of layers, or with pairs on routed experts: these
    give each row copies of its own as a batch passes, and a second pass would make others.
    """
    if any(isinstance(module, RoutedExperts) for module in model.modules()):
        raise ModelError(
            f"{_KEY} with adapters on routed experts, whose rows get copies of their own as a batch passes:"
            " a second pass would make others. Leave the experts out of adapter.target_modules"
        )
    lists = layer_lists(model)
    if not lists:
        raise ModelError(f"{_KEY} with this model, which has no plain list of its layers")
    for found in lists:
        for layer in found.layers:
            layer.forward = _Recomputed(layer.forward)


class _Recomputed:
    """A layer's forward pass, of which the way back finds nothing but the inputs."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        # The other kind knows no ``torch.autograd.grad``, which is how rows' gradients are found.
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
