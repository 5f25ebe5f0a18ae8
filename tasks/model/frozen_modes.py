"""The frozen model has no training mode: in it nothing is drawn, and nothing of a batch is kept."""

from __future__ import annotations

import types
from collections.abc import Collection

from torch import nn


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


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    module.training = False
    for child in module.children():
        child.train(mode)
    return module
