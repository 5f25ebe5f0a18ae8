"""A classifier on a base model: the class that carries its head, and what the head starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from privacy.errors import ModelError


def classifier_class(config: Any, *, mean: bool) -> Any:
    """What to load a classifier with: by its tokens for ``mean``, and else by the model's own way.

    That is transformers' class for the family where there is one. Elsewhere it is made of the same parts as
    transformers' own for most decoders: the family's backbone under one linear layer, which reads the last
    token that is no padding, or each token. Raises ModelError where there is no backbone.
    """
    import transformers
    from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification

    kind = "TokenClassification" if mean else "SequenceClassification"
    ready = getattr(transformers, f"AutoModelFor{kind}")
    if type(config) in ready._model_mapping:
        return ready
    backbone = _backbone(config)
    family = next(found for found in reversed(backbone.__mro__) if found in _families(backbone))
    parts = {"base_model_prefix": family.base_model_prefix or "model", "config_class": type(config)}
    generic = GenericForTokenClassification if mean else GenericForSequenceClassification
    return type(f"{backbone.__name__.removesuffix('Model')}For{kind}", (generic, family), parts)


def made_here(model: Any) -> bool:
    """Whether transformers has no class for a classifier, so that ``classifier_class`` made one."""
    return type(model).__module__ == __name__


def how_to_load(model: Any) -> str:
    """Python that loads a saved classifier whose class was made here, without Confide."""
    kind = type(model)
    generic, family = kind.__bases__
    return (
        f"from {generic.__module__} import {generic.__name__}\n"
        f"from {family.__module__} import {family.__name__}\n"
        f"from {kind.config_class.__module__} import {kind.config_class.__name__}\n\n\n"
        f"class {kind.__name__}({generic.__name__}, {family.__name__}):\n"
        f'    base_model_prefix = "{kind.base_model_prefix}"\n'
        f"    config_class = {kind.config_class.__name__}\n\n\n"
        f"model = {kind.__name__}.from_pretrained(FOLDER)\n"
    )


def last_layer(model: Any, *, labels: int) -> str:
    """The name of the layer that says how likely each label is, the one that is trained whole.

    It is the last linear layer outside the backbone with an output a label. Raises ModelError if there is
    none.
    """
    inside = f"{model.base_model_prefix}."
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == labels and not name.startswith(inside)
    ]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no linear layer with an output for each label: choose another "
            'model.pooling ("mean" or "model") or another model'
        )
    return found[-1]


def start_at_zero(model: nn.Module, layer: str) -> None:
    """Set a classifier's last layer to zero: every site starts from the same answer, all labels alike."""
    with torch.no_grad():
        for parameter in model.get_submodule(layer).parameters():
            parameter.zero_()


def check_trained_labels(config: Any, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels of a checkpoint's own head, in its order. Raises ModelError if they aren't the job's."""
    found = tuple(str(label) for _, label in sorted(config.id2label.items()))
    if sorted(found) != sorted(labels):
        raise ModelError(
            f'model.head="checkpoint": the checkpoint\'s head tells {quote(found)} apart, and the job '
            f'{quote(labels)}; list the same labels in data.labels, or start anew with model.head="new"'
        )
    return found


def check_trained_head(model: Any, layer: str, *, lacking: Sequence[str], saved_as: Sequence[str]) -> None:
    """Raises ModelError if a checkpoint has no head of the class that it was loaded as."""
    kind = type(model).__name__
    if any(name.startswith(f"{layer}.") for name in lacking) or kind not in saved_as:
        raise ModelError(
            f'model.head="checkpoint": expected a checkpoint saved as {kind}, got one saved as '
            f'{quote(saved_as) or "nothing"}; choose another model.pooling, or model.head="new"'
        )


def order_rows(layer: nn.Module, *, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Put the outputs of a head from one order of labels into another."""
    order = [found.index(label) for label in wanted]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter[order].clone())


def _backbone(config: Any) -> Any:
    import transformers

    found = transformers.MODEL_MAPPING.get(type(config), None)
    backbone = found[0] if isinstance(found, tuple) else found
    if backbone is None or not backbone.__name__.endswith("Model"):
        raise ModelError(
            f"transformers has no backbone alone for {config.model_type!r}, which a head could stand on: "
            "choose another model"
        )
    return backbone


def _families(backbone: Any) -> set[Any]:
    from transformers import PreTrainedModel

    return {kind for kind in backbone.__mro__ if issubclass(kind, PreTrainedModel)} - {PreTrainedModel}


def quote(labels: Sequence[str]) -> str:
    """The first few of these, each in quotes."""
    shown = ", ".join(map(repr, labels[:5]))
    return shown if len(labels) <= 5 else f"{shown} and {len(labels) - 5} more"
