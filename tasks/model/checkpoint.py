"""A checkpoint: a model's weights as they came, and what is made of those that it lacks."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from privacy.errors import ModelError
from protocol.job.job import Job
from protocol.plain_text import quoted_some, some
from tasks.model.device import Device
from tasks.model.drawn_weights import DrawnWeights
from tasks.model.model_files import refuse_adapter

# While transformers loads a model it exchanges functions of its own and of torch's for the whole process,
# and puts back what it found: two threads at once would leave the process without them.
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model as it came, with a head for the job's labels, which may not be in the checkpoint.

    ``lacking`` are the tensors that the checkpoint has none of, or of another shape, and ``drawn`` those of
    them that are random now. It was ``saved_as`` a class, and told ``labels`` apart.
    """

    model: Any
    lacking: tuple[str, ...]
    drawn: tuple[str, ...]
    reshaped: Mapping[str, str]
    saved_as: tuple[str, ...]
    labels: tuple[str, ...]


def read_checkpoint(
    job: Job,
    where: str,
    kind: Any,
    config: Any,
    *,
    labels: tuple[str, ...],
    device: Device,
    options: dict[str, Any],
) -> Checkpoint:
    """Load weights as a class of transformers', and draw from ``seeds.adapter`` what they lack."""
    found = tuple(str(label) for _, label in sorted((config.id2label or {}).items()))
    if labels:
        for one in (config, config.get_text_config()):
            one.num_labels = len(labels)
            one.id2label = dict(enumerate(labels))
            one.label2id = {label: index for index, label in enumerate(labels)}
    with _ONE_AT_A_TIME, DrawnWeights(job.seeds.adapter).all_kinds() as draws:
        model, told = kind.from_pretrained(
            where,
            config=config,
            dtype=torch.float32,
            attn_implementation=device.attention,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # of a head; ``check_whole`` refuses others
            **options,
        )
    refuse_adapter(job, found=getattr(model, "_hf_peft_config_loaded", False))
    if job.model.gguf:
        _forget_packing(model)
    reshaped = {
        name: f"{tuple(theirs)} in the weights and {tuple(ours)} in the model"
        for name, theirs, ours in told["mismatched_keys"]
    }
    return Checkpoint(
        model=model,
        lacking=tuple(sorted({*told["missing_keys"], *reshaped})),
        drawn=draws.names(model),
        reshaped=reshaped,
        saved_as=tuple(config.architectures or ()),
        labels=found,
    )


def _forget_packing(model: Any) -> None:
    """Let a model be saved like any other if its weights were unpacked as they were read.

    transformers goes on taking it for packed, and saves no such model.
    """
    packing = getattr(model, "hf_quantizer", None)
    if packing is not None and all(weight.is_floating_point() for weight in model.parameters()):
        packing.remove_quantization_config(model)


def check_whole(checkpoint: Checkpoint, head: tuple[str, ...]) -> tuple[str, ...]:
    """The layers that were drawn, but those of ``head``.

    Raises ModelError where numbered layers are lacking: such weights are of another model, or a part.
    """
    ours = {name for name in checkpoint.model.state_dict() if name.rpartition(".")[0] in head}
    for name in sorted(checkpoint.reshaped.keys() - ours):
        raise ModelError(
            f"model.source: {name} is {checkpoint.reshaped[name]}: take the config that belongs to the "
            "weights"
        )
    numbered = [
        name
        for name in sorted({*checkpoint.lacking, *checkpoint.drawn} - ours)
        if re.search(r"\.\d+\.", name)
    ]
    if numbered:
        raise ModelError(
            f"model.source: the weights lack {numbered[0]}"
            + (f" and {len(numbered) - 1} more of the layers" if len(numbered) > 1 else "")
            + f": they were saved as {', '.join(checkpoint.saved_as) or 'another class'}, and task and "
            f"model.pooling ask for {type(checkpoint.model).__name__}; choose another of them, or a whole "
            "checkpoint"
        )
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in checkpoint.drawn if name not in ours))


def list_remarks(
    job: Job,
    checkpoint: Checkpoint,
    *,
    drawn: tuple[str, ...],
    unused: tuple[str, ...],
    head: tuple[str, ...],
) -> tuple[str, ...]:
    """What a reader should know of how the model was made whole."""
    remarks = []
    if drawn:
        remarks.append(
            f"The checkpoint lacks {', '.join(drawn)}: drawn from seeds.adapter = {job.seeds.adapter}, not "
            "trained, and written into exports."
        )
    left_out = sorted(set(unused) - {*drawn, *head})
    if left_out:
        remarks.append(f'Texts do not use {some(left_out)}: "all-linear" leaves these layers out.')
    own = set(head) - {
        name.rpartition(".")[0] for name in checkpoint.lacking if name not in checkpoint.reshaped
    }
    if own and job.model.head == "new" and type(checkpoint.model).__name__ in checkpoint.saved_as:
        remarks.append(
            f"The checkpoint's own head, for {quoted_some(checkpoint.labels)}, is left out, and a new one "
            'starts at zero: model.head = "checkpoint" keeps it.'
        )
    return tuple(remarks)
