"""The frozen model has no training mode: in it nothing is drawn, and nothing of a batch is kept."""

from __future__ import annotations

import types
from collections.abc import Collection

from torch import nn

# They do the same in training and evaluation.
_ALIKE = (nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def keep_evaluated(model: nn.Module, *, trained: Collection[str]) -> None:
    """Keep a model's modules in evaluation mode whatever mode is asked for, but those that are trained.

    Dropout, noise on a router, masked spectra and layers that are left out follow a module's mode, by
    whatever key of a config they are set; so do norms over a batch, which would mix its examples. What is
    trained (``trained`` names modules of the model) and what is put between the modules later, such as an
    adapter with a dropout of its own, still follow: per-example gradients are taken in training mode alone.
    """
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(f"{head}.") for head in trained)
        if not (inside and any(True for _ in module.parameters(recurse=False))):
            module.train = types.MethodType(_stay, module)
    model.train()


def follow_where_biases_are_trained(model: nn.Module) -> None:
    """Let layers with a trained bias follow the mode that is asked for, if they compute the same in each.

    Hooks find gradients in training mode alone. A norm over a batch stays as it is, whose bias is found
    one example at a time.
    """
    for module in model.modules():
        bias = getattr(module, "bias", None)
        alike = isinstance(module, _ALIKE) or type(module).__name__ == "Conv1D"  # GPT-2's linear layers
        if alike and isinstance(bias, nn.Parameter) and bias.requires_grad:
            vars(module).pop("train", None)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    module.training = False
    for child in module.children():
        child.train(mode)
    return module
