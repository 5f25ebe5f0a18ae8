"""The layers of a model: where the part that reads text has them, and which of them a module is in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from privacy.errors import ModelError
from tasks.model.model_limits import text_config

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# What configs call the number of layers.
_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_blocks")


@dataclass(frozen=True, kw_only=True)
class LayerList:
    """A list of a model's layers: ``name`` is its own, ``owner`` the module that it is an attribute of."""

    name: str
    owner: nn.Module
    layers: nn.ModuleList

    @property
    def attribute(self) -> str:
        return self.name.rpartition(".")[2]


def text_part(model: nn.Module) -> str:
    """The name of the submodule that reads text, where a model has others, such as for images; else "".

    Only that part takes part in what is computed of a text.
    """
    config = getattr(model, "config", None)
    text = None if config is None else text_config(model)
    if type(text) is type(config):
        return ""
    inner = (
        n for n, module in model.named_modules() if type(getattr(module, "config", None)) is type(text)
    )
    return next(inner, "")


def linear_layers(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of the part that reads text, by name, without what turns its last state to tokens.

    A subclass that gives something else than a tensor is none, such as a router that also tells what it
    chose: LoRA could not be added to that.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    within = text_part(model)
    for name, module in model.named_modules():
        if _is_in(name, within) and module is not output and _is_linear(module):
            yield name, module


def convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The convolutions of the part that reads text, by name, that B · A can be added to and merged into.

    PEFT gives A the kernel, stride and zeros at the edge, and B none of them: so it is wrong for those with
    groups or dilation, that pad with something else, that are transposed, or that are called otherwise.
    """
    within = text_part(model)
    for name, module in model.named_modules():
        if (
            _is_in(name, within)
            and isinstance(module, _CONVOLUTIONS)
            and any(type(module).forward is kind.forward for kind in _CONVOLUTIONS)
            and module.groups == 1
            and set(module.dilation) == {1}
            and module.padding_mode == "zeros"
        ):
            yield name, module


def layer_lists(model: nn.Module) -> tuple[LayerList, ...]:
    """The lists with one entry a layer; none for a model without such, as where layers share weights.

    Most have one. There are several where a layer's parts are in lists of their own, or where one stack
    reads and another one writes.
    """
    count, within = _count(model), text_part(model)
    found: list[LayerList] = []
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == count
            and _is_in(name, within)
            and not any(isinstance(entry, nn.ModuleList) for entry in module)
            and not any(_is_in(name, outer.name) for outer in found)
        ):
            owner = model.get_submodule(name.rpartition(".")[0])
            found.append(LayerList(name=name, owner=owner, layers=module))
    return tuple(found)


def layer_number(name: str, lists: tuple[LayerList, ...]) -> int | None:
    """The number of the layer that a module is in, by the module's name; None outside all layers."""
    for found in lists:
        if name.startswith(f"{found.name}."):
            return int(name.removeprefix(f"{found.name}.").partition(".")[0])
    return None


def count_layers(model: nn.Module) -> int:
    """How many layers a model has to choose from. Raises ModelError if none of its lists are layers."""
    lists = layer_lists(model)
    if not lists:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise ModelError(
            f"adapter.layers_to_transform: {kind} has no plain list of its layers, because they share "
            "weights or are nested: leave the key out, which adapts all of them"
        )
    return len(lists[0].layers)


def _count(model: nn.Module) -> int | None:
    config: Any = text_config(model) if hasattr(model, "config") else None
    counts = (getattr(config, name, None) for name in _COUNTS)
    return next((count for count in counts if isinstance(count, int)), None)


def _is_linear(module: nn.Module) -> bool:
    if not isinstance(module, nn.Linear) or type(module).forward is nn.Linear.forward:
        # GPT-2 calls its linear layers Conv1D; PEFT treats them alike.
        return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    try:
        with torch.no_grad():
            made_up = torch.zeros(1, module.in_features, device=module.weight.device)
            return isinstance(module(made_up), torch.Tensor)
    except Exception:  # a model's code raises whatever it likes
        return False


def _is_in(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")
