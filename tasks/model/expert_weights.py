"""Routed experts: modules that hold the weights of all experts of a layer in two tensors.

They are [experts, 2 · inner, outer], gates and what they let through, and [experts, outer, inner].
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from protocol.job.layout import FUSED
from tasks.model.model_layers import text_part

_EXPERT = re.compile(rf"\.({'|'.join(FUSED)})\.\d+\.lora_")


def expert_weights(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The fused weights of the part that reads text, by name, that LoRA may be on, each with its module.

    They are those of transformers' mixtures whose experts have a gate and no bias, as Mixtral's, Qwen's and
    DeepSeek's have.
    """
    for name, module in _fused_modules(model):
        if may_carry(module):
            for weight in FUSED:
                yield f"{name}.{weight}", module


def named_by(weight: str, target: str) -> bool:
    """Whether a job's target names a fused weight, by its own name or by that of its module.

    A weight's own name must have the module's in it: ``down_proj`` alone is a linear layer in most models,
    and in a mixture one of the shared experts'.
    """
    module = weight.rpartition(".")[0]
    return f".{module}".endswith(f".{target}") or ("." in target and f".{weight}".endswith(f".{target}"))


def of_all_experts(tensor: str) -> str:
    """A tensor's name in the layout, without the number where it is of one expert: theirs are all alike."""
    return _EXPERT.sub(r".\1.lora_", tensor)


def other_experts(model: nn.Module, target: str) -> str | None:
    """The name of fused experts that a target names and that cannot carry LoRA, if there are such."""
    for name, module in _fused_modules(model):
        if not may_carry(module) and any(named_by(f"{name}.{weight}", target) for weight in FUSED):
            return name
    return None


def may_carry(experts: Any) -> bool:
    """Whether each expert is down(act(gate(x)) · up(x)), its weights kept as outputs by inputs."""
    told = {"has_gate": True, "has_bias": False, "has_post_expert_norm": False, "is_transposed": False}
    return all(getattr(experts, key, None) is value for key, value in told.items())


def _fused_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    within = text_part(model)
    for name, module in model.named_modules():
        weights = [getattr(module, weight, None) for weight in FUSED]
        inside = not within or name.startswith(f"{within}.")
        if inside and all(isinstance(weight, nn.Parameter) and weight.ndim == 3 for weight in weights):
            yield name, module
