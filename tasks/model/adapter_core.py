"""A square core between A and B: a layer adds s · B · C · A, and C alone is trained."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraVariant
from torch import nn

from privacy.errors import ModelError


def add_cores(peft_model: nn.Module, *, adapter: str) -> None:
    """Put a core, a linear layer without bias, into each of LoRA's pairs, as ``lora_C`` beside them.

    Raises ModelError for pairs on convolutions, whose halves are no matrices between which one would fit.
    """
    for name, module in list(peft_model.named_modules()):
        pairs = getattr(module, "lora_A", None)
        if not isinstance(pairs, nn.ModuleDict) or adapter not in pairs:
            continue
        if not isinstance(module, LoraLinear):
            raise ModelError(
                f"adapter.target_modules: {name} is no linear layer, and the strategy trains a square "
                "matrix between A and B: name linear layers alone, or use another strategy.name"
            )
        first: Any = pairs[adapter]
        rank, weight = first.out_features, first.weight
        core = nn.Linear(rank, rank, bias=False, device=weight.device, dtype=weight.dtype)
        layer: Any = module
        layer.lora_C = nn.ModuleDict({adapter: core})
        layer.lora_variant[adapter] = _Cored()


class _Cored(LoraVariant):  # type: ignore[misc]  # PEFT has no types
    """LoRA with a core, as PEFT's layers call what differs from plain pairs."""

    def supports_lora_conversion(self) -> bool:
        return False

    @staticmethod
    def init(module: Any, adapter_name: str, **_: Any) -> None:
        """Nothing: the core is there."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any) -> Any:
        first, core, last = (half[active_adapter] for half in (module.lora_A, module.lora_C, module.lora_B))
        dropout, scale = module.lora_dropout[active_adapter], module.scaling[active_adapter]
        return result + last(core(first(dropout(x)))) * scale

    @classmethod
    def merge_safe(cls, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        return orig_weight + cls._change(module, active_adapter).to(orig_weight.dtype)

    @classmethod
    def merge_unsafe(cls, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> None:
        orig_weight.data += cls._change(module, active_adapter).to(orig_weight.dtype)

    @classmethod
    def unmerge(cls, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        return orig_weight - cls._change(module, active_adapter).to(orig_weight.dtype)

    @staticmethod
    def _change(module: Any, adapter: str) -> torch.Tensor:
        first, core, last = (half[adapter].weight for half in (module.lora_A, module.lora_C, module.lora_B))
        found: torch.Tensor = (last @ core @ first) * module.scaling[adapter]
        return found.T if module.fan_in_fan_out else found
