"""A pretrained image classifier whose last layer is one that reads words beside what the image says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from privacy.canonical import canonical_json
from tasks.model.base_model import BaseModel
from tasks.model.fitted_trunk import TRUNK, check_last
from tasks.model.model_digest import model_digest
from tasks.model.network_folder import write_network
from tasks.model.noted_network import JointClassifier, NotedTrunk

_HEAD = "joint.classifier"

_LOADER = '''

def load(folder: str) -> NotedTrunk:
    """The model of this folder: of pixels, words and seen as network.json says `logits`, [b, labels]."""
    import json
    from pathlib import Path

    from safetensors.torch import load_file
    from transformers import {kind}

    made_of = json.loads((Path(folder) / "{made_of}").read_text("utf-8"))["made_of"]
    joint = {name}(**made_of)
    joint.load_state_dict(load_file(Path(folder) / "{weights}"))
    trunk = {kind}.from_pretrained(Path(folder) / "{trunk}")
    return NotedTrunk(trunk, joint, replaced="{replaced}").eval()
'''


def with_words(
    base: BaseModel, *, labels: tuple[str, ...], words: int, weights: Sequence[float]
) -> BaseModel:
    """The classifier with a layer that reads ``words`` numbers beside its features in its last one's place.

    That layer is zero and is trained, and what lies under it stays as it is. Raises ModelError for a model
    whose last layer does not give the model's answer.
    """
    model: Any = base.model
    (replaced,) = base.head
    last = model.get_submodule(replaced)
    joint = JointClassifier(
        labels=list(labels), features=last.in_features, words=words, weights=list(weights)
    )
    for parameter in joint.parameters():
        nn.init.zeros_(parameter)
    noted = NotedTrunk(model, joint.to(last.weight.device), replaced=replaced)
    check_last(model, model.get_submodule(replaced), base.reader)
    made_of = canonical_json({"trunk": base.digest, "made_of": joint.made_of})
    told = f"Words are read beside what the model's {replaced} read, by a layer that starts at zero."
    return replace(
        base,
        model=noted.requires_grad_(False).eval(),
        head=(_HEAD,),
        drawn=tuple(f"trunk.{name}" for name in base.drawn),
        digest=model_digest(joint, config=made_of, tokenizer=b""),
        remarks=(*base.remarks[: bool(base.drawn)], told),
    )


def write_noted(model: NotedTrunk, folder: Path, *, inputs: Sequence[str]) -> Path:
    """Write the layer that reads both, and a program that puts it on the trunk; where that one's place is.

    The trunk then has a layer of zeros where its own last one was, as transformers' class has one.
    """
    names = {"kind": type(model.trunk).__name__, "trunk": TRUNK, "replaced": model.replaced}
    write_network(model.joint, folder, inputs=inputs, loader=_LOADER, names=names)
    made_of = model.joint.made_of
    layer = nn.Linear(made_of["features"], model.config.num_labels)  # type: ignore[arg-type]
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    model.trunk.set_submodule(model.replaced, layer)
    return folder / TRUNK
