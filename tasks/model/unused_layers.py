"""Linear layers that no text uses: ``all-linear`` leaves them out, as an adapter there would do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tasks.model.model_layers import linear_layers
from tasks.model.trial import made_up_text

_Probes = dict[str, list[torch.Tensor]]


def find_unused(model: Any, *, padding: int, tokens: int, limit: int | None) -> tuple[str, ...]:
    """The linear layers whose outputs take no part in what a model makes of a made-up text.

    One whose counterpart in another block does is not among them: a mixture's experts are used by some
    texts. None are found in a model that cannot be differentiated.
    """
    model.eval()
    device = next(model.parameters()).device
    text = made_up_text(padding, tokens, limit).to(device)
    layers = dict(linear_layers(model))
    try:
        with torch.enable_grad(), _probed(layers) as probes:
            total = model(input_ids=text, attention_mask=torch.ones_like(text)).logits.float().sum()
            flat = [(name, probe) for name, found in probes.items() for probe in found]
            gradients = torch.autograd.grad(total, [probe for _, probe in flat], allow_unused=True)
    except Exception:  # a model's code raises whatever it likes; the check of its gradients says so
        return ()
    used = {_kind(name) for (name, _), found in zip(flat, gradients, strict=True) if found is not None}
    return tuple(name for name in layers if _kind(name) not in used)


@contextmanager
def _probed(layers: dict[str, nn.Module]) -> Iterator[_Probes]:
    """Within this block a zero is added to all that the layers give: its gradient is their output's."""
    probes: _Probes = {name: [] for name in layers}

    def add(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            probes[name].append(torch.zeros_like(output, requires_grad=True))
            return output + probes[name][-1]

        return hook

    handles = [module.register_forward_hook(add(name)) for name, module in layers.items()]
    try:
        yield probes
    finally:
        for handle in handles:
            handle.remove()


def _kind(name: str) -> str:
    """A layer's name without the numbers of blocks."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
