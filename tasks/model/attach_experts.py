"""LoRA on routed experts, in the place of what PEFT puts there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from privacy.errors import ModelError
from protocol.job.adapter_section import AdapterSection
from tasks.model.routed_experts import RoutedExperts

# Sums of float32 in another order.
_TOLERANCE = 1e-4


def check_experts(adapter: AdapterSection) -> None:
    """Raises ModelError for what LoRA on routed experts does not go with."""
    if adapter.dropout:
        raise ModelError(
            "adapter.dropout: expected 0 with LoRA on routed experts, as PEFT has none there, got "
            f"{adapter.dropout:g}"
        )
    if adapter.changes_base:
        raise ModelError(
            f'adapter.init: expected "orthonormal" with LoRA on routed experts, got "{adapter.init}": a '
            "part of each expert would be taken out of a weight that all of them share"
        )


def put_expert_pairs(peft_model: Any, weights: Iterable[str], *, adapter: str) -> None:
    """Take PEFT's wrappers off these weights, and give each expert a pair at the wrappers' rank and scale.

    PEFT adds a pair to its weight before the experts are called, which gives one gradient for a whole
    batch. Raises ModelError if experts compute something else than ``RoutedExperts`` does.
    """
    model = peft_model.get_base_model()
    for name in sorted({weight.rpartition(".")[0] for weight in weights}):
        wrapper, pairs = model.get_submodule(name), dict[str, tuple[int, float]]()
        while hasattr(wrapper, "parameter_name"):
            pairs[wrapper.parameter_name] = (wrapper.r[adapter], wrapper.scaling[adapter])
            wrapper = wrapper.base_layer
        routed = RoutedExperts(wrapper, pairs, adapter=adapter)
        _check_alike(name, wrapper, routed)
        model.set_submodule(name, routed)


def _check_alike(name: str, experts: Any, routed: nn.Module) -> None:
    """Pairs that are zero change nothing of what made-up tokens become."""
    count, outer, inner = experts.down_proj.shape
    numbers = torch.arange(2 * count * outer, dtype=torch.float64).mul(0.7).sin().view(2 * count, outer)
    tokens = numbers.to(experts.down_proj)
    chosen = torch.stack([torch.arange(2 * count) % count, torch.arange(2 * count).add(1) % count], dim=1)
    shares = torch.tensor([[0.75, 0.25]]).expand(2 * count, 2)
    with torch.no_grad():
        given = (tokens, chosen.to(tokens.device), shares.to(tokens))
        expected, found = experts(*given), routed(*given)
    # Written so that NaN is refused.
    if not float((found - expected).norm()) <= _TOLERANCE * float(expected.norm()):
        raise ModelError(
            f"adapter.target_modules: {name} computes something else than {inner} gated numbers a token of "
            "each expert, so that LoRA on them would be wrong: leave them out"
        )
