"""A classifier on a base model: the class that carries its head, and what the head starts from."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from privacy.errors import ModelError
from protocol.plain_text import quoted_some
from tasks.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model loaded to tell ``labels`` apart, by the ``mean`` of its tokens or by the model's own way.

    The last layer of its head is trained: from zero, or ``trained`` further, as the checkpoint has it.
    """

    labels: tuple[str, ...]
    mean: bool
    trained: bool

    def choose(self, config: Any) -> Any:
        """The class to load. Raises ModelError if the model cannot be a classifier as the job asks."""
        if self.trained:
            _check_labels(tuple(map(str, config.id2label.values())), self.labels)
        if config.is_encoder_decoder and not self.mean:
            raise ModelError(
                f'model.pooling="model": {config.model_type} classifies a text by its end-of-text '
                'token, which not every text has once: choose model.pooling="mean"'
            )
        return classifier_class(config, mean=self.mean)

    def find_head(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The last layer. Raises ModelError if the checkpoint has none that was trained, but should."""
        layer = last_layer(checkpoint.model, labels=len(self.labels))
        if self.trained:
            _check_trained(checkpoint, layer)
        return (layer,)

    def begin(self, checkpoint: Checkpoint, head: tuple[str, ...]) -> None:
        """Set the last layer to zero, or its rows in the order of the job's labels."""
        order = [checkpoint.labels.index(label) for label in self.labels] if self.trained else None
        with torch.no_grad():
            for parameter in checkpoint.model.get_submodule(head[0]).parameters():
                parameter.copy_(torch.zeros_like(parameter) if order is None else parameter[order].clone())


class LinearHead:
    """A linear layer on a backbone of transformers': a logit a label for each token, or the last one."""

    each_token = False

    def __init__(self, config: Any) -> None:
        from transformers import AutoModel

        super().__init__(config)  # type: ignore[call-arg]  # a PreTrainedModel's
        setattr(self, self.base_model_prefix, AutoModel.from_config(config))  # type: ignore[attr-defined]
        self.score = nn.Linear(config.get_text_config().hidden_size, config.num_labels)
        self.post_init()  # type: ignore[attr-defined]

    def forward(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        backbone = getattr(self, self.base_model_prefix)  # type: ignore[attr-defined]
        hidden = backbone(input_ids=input_ids, attention_mask=mask, **options).last_hidden_state
        if not self.each_token:
            last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
            hidden = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return SequenceClassifierOutput(logits=self.score(hidden))


def classifier_class(config: Any, *, mean: bool) -> Any:
    """The class for a classifier by its tokens, for ``mean``, or else by the model's own way.

    That is transformers' class for the family where there is one. Elsewhere it is the family's backbone
    under a ``LinearHead``. Raises ModelError where there is no backbone.
    """
    import transformers

    kind = "TokenClassification" if mean else "SequenceClassification"
    ready = getattr(transformers, f"AutoModelFor{kind}")
    if type(config) in ready._model_mapping:
        return ready
    backbone = _backbone(config)
    family = next(found for found in reversed(backbone.__mro__) if found in _families(backbone))
    parts = {
        "base_model_prefix": family.base_model_prefix or "model",
        "config_class": type(config),
        "each_token": mean,
    }
    return type(f"{backbone.__name__.removesuffix('Model')}For{kind}", (LinearHead, family), parts)


def made_here(model: Any) -> bool:
    """Whether transformers has no class for a classifier, so that ``classifier_class`` made one."""
    return isinstance(model, LinearHead)


def how_to_load(model: Any) -> str:
    """Python that loads a saved classifier whose class was made here, without Confide."""
    kind = type(model)
    family = kind.__bases__[1]
    source = textwrap.dedent(inspect.getsource(LinearHead))
    return (
        "from typing import Any\n\nimport torch\nfrom torch import nn\n"
        f"from {kind.config_class.__module__} import {kind.config_class.__name__}\n"
        f"from {family.__module__} import {family.__name__}\n\n\n{source}\n\n"
        f"class {kind.__name__}(LinearHead, {family.__name__}):\n"
        f'    base_model_prefix = "{kind.base_model_prefix}"\n'
        f"    config_class = {kind.config_class.__name__}\n"
        f"    each_token = {kind.each_token}\n\n\n"
        f"model = {kind.__name__}.from_pretrained(FOLDER)\n"
    )


def last_layer(model: Any, *, labels: int) -> str:
    """The name of the layer that says how likely each label is, the one that is trained whole.

    It is the last linear layer outside the backbone with an output a label. Raises ModelError if there is
    none.
    """
    inside = f"{model.base_model_prefix}."
    found: list[str] = [
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


def _check_labels(found: Sequence[str], labels: Sequence[str]) -> None:
    if sorted(found) != sorted(labels):
        raise ModelError(
            f'model.head="checkpoint": the checkpoint\'s head tells {quoted_some(found)} apart, and the '
            f"job {quoted_some(labels)}; list the same labels in data.labels, or start anew with "
            'model.head="new"'
        )


def _check_trained(checkpoint: Checkpoint, layer: str) -> None:
    kind = type(checkpoint.model).__name__
    lacking = any(name.startswith(f"{layer}.") for name in checkpoint.lacking)
    if lacking or kind not in checkpoint.saved_as:
        raise ModelError(
            f'model.head="checkpoint": expected a checkpoint saved as {kind}, got one saved as '
            f"{quoted_some(checkpoint.saved_as) or 'nothing'}; choose another model.pooling, or "
            'model.head="new"'
        )


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
