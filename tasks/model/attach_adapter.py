"""LoRA put on the layers of a base model that a job names, and nowhere else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn

from privacy.errors import ModelError, PrivacyUnitError
from protocol.job.adapter_section import AdapterSection, ends, no_adapter, top_share
from protocol.plain_text import first_line
from tasks.model.attach_experts import check_experts, put_expert_pairs
from tasks.model.base_model import BaseModel
from tasks.model.expert_weights import expert_weights, named_by, other_experts
from tasks.model.model_layers import convolutions, count_layers, layer_lists, layer_number, linear_layers

ADAPTER = "default"  # PEFT's name for it


def attach(base: BaseModel, adapter: AdapterSection, *, source: str) -> Any:
    """A PeftModel around the base model, with LoRA on the layers that a job's section names.

    A model that is trained whole has none, and neither has one whose head alone is trained; PEFT only
    knows what is saved whole. ``source`` is what
    exports call the base model. Raises ModelError for layers that are not there or cannot carry it,
    PrivacyUnitError where PEFT would put it elsewhere.
    """
    layers = adapted_layers(adapter, base.model)
    bare = base.trained_whole or adapter == no_adapter()
    expected = set() if bare else _expected_targets(base, adapter, layers)
    experts = expected & {name for name, _ in expert_weights(base.model)}
    if experts:
        check_experts(adapter)
    _check_patterns(adapter, expected)
    peft = _attach(base, adapter, layers, expected, experts, source)
    _check_targets(peft, adapter, expected)
    put_expert_pairs(peft, experts, adapter=ADAPTER)
    return peft


def adapted_layers(adapter: AdapterSection, model: Any) -> list[int] | None:
    """The layers that carry adapters, or None for all. Raises ModelError if one does not exist."""
    asked = adapter.layers_to_transform
    if asked is None:
        return None
    count = count_layers(model)
    if isinstance(asked, str):
        share = top_share(asked) or 1.0
        # Rounded first: 0.28 · 25 is a hair above 7 in floating point, and would become 8.
        return list(range(count - math.ceil(round(share * count, 6)), count))
    if max(asked) >= count:
        raise ModelError(f"adapter.layers_to_transform: expected layers 0 to {count - 1}, got {max(asked)}")
    return sorted(set(asked))


def _attach(
    base: BaseModel,
    adapter: AdapterSection,
    layers: list[int] | None,
    expected: set[str],
    experts: set[str],
    source: str,
) -> Any:
    from peft import LoraConfig, get_peft_model
    from peft.utils import ModulesToSaveWrapper
    from peft.utils.constants import DUMMY_TARGET_MODULES

    targets = adapter.target_modules
    # PEFT looks for endings and for the first number in a name, which may be another part's or block's.
    everything = [name for name, _ in base.model.named_modules()]
    short = layers is None and expected == set(_matching(everything, targets))
    named = targets if short else sorted(expected - experts)
    config = LoraConfig(
        task_type=base.peft_type,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        use_rslora=adapter.scaling == "rslora",
        rank_pattern=dict(adapter.rank_pattern),
        alpha_pattern=dict(adapter.alpha_pattern),
        bias=adapter.bias,
        lora_dropout=adapter.dropout,
        target_modules=named if expected else DUMMY_TARGET_MODULES,
        target_parameters=sorted(experts) or None,
        modules_to_save=list(base.head) or None,
        base_model_name_or_path=source,
    )
    called = _call_names(base)  # before PEFT, which may fail half-way
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fan_in_fan_out is set right by PEFT, which says so
        try:
            peft = get_peft_model(base.model, config, adapter_name=ADAPTER)
        except Exception as error:  # PEFT and the model's class raise whatever they like
            raise ModelError(f"adapter.target_modules={targets}: {first_line(error)}. {called}") from error
    # PEFT takes whatever ends with a head's name for it: DistilBERT has a pre_classifier, too.
    for name, module in list(base.model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper) and name not in base.head:
            base.model.set_submodule(name, module.original_module)
    return peft


def _names(base: BaseModel, layers: Iterable[tuple[str, nn.Module]]) -> list[str]:
    return [name for name, _ in layers if base.may_adapt(name)]


def _matching(names: list[str], targets: list[str]) -> list[str]:
    return [name for name in names if any(f".{name}".endswith(f".{target}") for target in targets)]


def _call_names(base: BaseModel) -> str:
    names = sorted({n.rsplit(".", 1)[-1] for n in _names(base, linear_layers(base.model))})
    if not names:
        return "this model has no linear layers under its head that texts use: choose another model"
    experts = {name.split(".")[-2] for name in _names(base, expert_weights(base.model))}
    beside = f"; its routed experts: {', '.join(sorted(experts))}" if experts else ""
    return f"This model's linear layers are called: {', '.join(names)}{beside}"


def _expected_targets(base: BaseModel, adapter: AdapterSection, layers: list[int] | None) -> set[str]:
    """Names of the layers and experts' weights that the job's targets name, found without PEFT.

    Raises ModelError if a target names none: PEFT is content when any of them names one.
    """
    targets, names = adapter.target_modules, _names(base, linear_layers(base.model))
    if "all-linear" in targets and len(targets) > 1:
        raise ModelError(f'adapter.target_modules={targets}: expected "all-linear" alone, or names')
    if targets != ["all-linear"]:
        names += _names(base, convolutions(base.model))
        experts = _names(base, expert_weights(base.model))
        named = [name for name in experts if any(named_by(name, target) for target in targets)]
        unknown = [
            target
            for target in targets
            if not _matching(names, [target]) and not any(named_by(name, target) for name in named)
        ]
        if unknown:
            raise ModelError(
                f"adapter.target_modules={unknown}: expected the names of linear layers under the "
                f"head{_other_kind(base.model, unknown)}. {_call_names(base)}"
            )
        names = _matching(names, targets) + named
    if not names:
        raise ModelError(f"adapter.target_modules={targets}: {_call_names(base)}")
    if layers is None:
        return set(names)
    lists = layer_lists(base.model)
    chosen = {name for name in names if layer_number(name, lists) in layers}
    if not chosen:
        held = sorted({number for name in names if (number := layer_number(name, lists)) is not None})
        raise ModelError(
            f"adapter.layers_to_transform: none of {', '.join(map(str, targets))} is in layer "
            f"{', '.join(map(str, layers))}; expected one of {', '.join(map(str, held)) or 'none'}"
        )
    return chosen


def _other_kind(model: nn.Module, targets: list[str]) -> str:
    """What the layers are that a job names and that carry no adapter, where that is known."""
    for target in targets:
        experts = other_experts(model, target)
        if experts is not None:
            return f"; {experts} are experts with biases, or laid out otherwise, which carry no adapter"
    named = set(_matching([name for name, _ in model.named_modules()], targets))
    for name, module in model.named_modules():
        if name not in named:
            continue
        if isinstance(module, nn.Embedding):
            return f"; {name} is an embedding, for which no gradient of one example is found"
        if isinstance(module, nn.MultiheadAttention):
            return f"; {name} calls no layer for its weights, and no gradient of one example is found"
        if isinstance(module, nn.modules.conv._ConvNd):
            return (
                ", or of convolutions without groups or dilation that pad with zeros: into others, such as "
                f"{name}, B · A cannot be merged"
            )
    return ""


def _check_patterns(adapter: AdapterSection, layers: set[str]) -> None:
    """Raises ModelError for a pattern's key that names no adapted layer, or where two name one.

    PEFT says nothing of the first, and of two takes the one that is written first: the order of a table's
    keys, which a manifest does not keep.
    """
    lost = adapter.unmatched(layers)
    if lost:
        raise ModelError(
            f"adapter.{lost[0]}: expected the end of the name of an adapted layer, such as "
            f"{', '.join(sorted(layers)[:3])}"
        )
    for key, pattern in (("rank_pattern", adapter.rank_pattern), ("alpha_pattern", adapter.alpha_pattern)):
        for layer in sorted(layers):
            found = [end for end in pattern if ends(layer, end)]
            if len(found) > 1:
                raise ModelError(
                    f"adapter.{key}: {' and '.join(found[:2])} both name {layer}: expected one for a layer"
                )


def _check_targets(peft_model: Any, adapter: AdapterSection, expected: set[str]) -> None:
    """Refuse if PEFT put LoRA anywhere else than on the layers that were asked for, or at another scale.

    PEFT moves names that match parts of a fused mixture-of-experts layer onto its routed experts
    without a word, where per-example gradients do not exist.
    """
    prefix = "base_model.model."
    carrying = {
        _carried(name.removeprefix(prefix), module): module
        for name, module in peft_model.named_modules()
        if hasattr(module, "lora_A") and len(module.lora_A)
    }
    odd = sorted(carrying.keys() ^ expected)
    if odd:
        wrong = {name.rpartition(".")[2] for name in odd}
        left = sorted({name.rpartition(".")[2] for name in expected} - wrong)
        raise PrivacyUnitError(
            "PEFT puts LoRA elsewhere than adapter.target_modules asks for, such as on routed experts in "
            f"place of shared ones; it differs at {', '.join(odd[:4])}. Name other layers: "
            f"{', '.join(left) or 'this model has none'}"
        )
    for layer, module in carrying.items():
        given, asked = module.scaling[ADAPTER], adapter.scale_of(layer)
        if not math.isclose(given, asked):
            raise ModelError(f"adapter: PEFT scales {layer} by {given:g}, expected {asked:g}")


def _carried(name: str, module: Any) -> str:
    """The name of what a module of PEFT's adapts: a layer or, by wrappers in one another, weights."""
    weight = getattr(module, "parameter_name", None)
    if weight is None:
        return name
    while name.endswith(".base_layer"):
        name = name.removesuffix(".base_layer")
    return f"{name}.{weight}"
