"""A pretrained trunk that stays as it is, under a Gaussian of what it makes of usual examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from privacy.canonical import canonical_json
from privacy.errors import ModelError
from tasks.model.base_model import BaseModel
from tasks.model.drawn_weights import DrawnWeights
from tasks.model.gaussian_network import GaussianFit, GaussianNetwork
from tasks.model.model_digest import model_digest
from tasks.model.network_folder import write_network

TRUNK = "trunk"  # its folder in an export
_FIT = "fit"  # what is trained of a GaussianNetwork

# What a trunk makes has no scale that is known beforehand: features count by their direction alone.
_SCALE = 1e-6

_LOADER = '''

def load(folder: str) -> nn.Module:
    """The model of this folder: of pixels as network.json says `logits`, [b, 2], the last the distance."""
    import json
    from pathlib import Path

    from safetensors.torch import load_file
    from transformers import {kind}

    made_of = json.loads((Path(folder) / "{made_of}").read_text("utf-8"))["made_of"]
    fit = {name}(**made_of)
    fit.load_state_dict(load_file(Path(folder) / "{weights}"))
    model = {kind}.from_pretrained(Path(folder) / "{trunk}")
    model.set_submodule("{head}", fit)
    return model.eval()
'''


def fit_on_trunk(base: BaseModel, *, seed: int, labels: tuple[str, ...], features: int) -> BaseModel:
    """The classifier with a ``GaussianNetwork`` in the place of its last layer.

    What that layer reads, float32[b, width], is what is fitted; its projection onto ``features`` directions
    is drawn from ``seed``, and is in the digest. All but the sums stays as it is.
    """
    model: Any = base.model
    (head,) = base.head
    width = model.get_submodule(head).in_features
    with DrawnWeights(seed):
        fit = GaussianNetwork(
            channels=1, labels=list(labels), parts=[width], features=features, scale=_SCALE
        )
    nn.init.zeros_(fit.fit.sums.weight)
    model.set_submodule(head, fit.requires_grad_(False).to(next(model.parameters()).device).eval())
    check_last(model, fit, base.reader)
    told = (
        f"Features are what the model's {head} reads, in directions drawn from seeds.adapter = {seed}; "
        "sums over them are fitted in its place."
    )
    lacking = base.remarks[: bool(base.drawn)]  # what else is said is of a classifier's head
    return replace(
        base,
        head=(f"{head}.{_FIT}",),
        digest=model_digest(fit, config=canonical_json({"trunk": base.digest}), tokenizer=b""),
        remarks=(*lacking, told),
    )


def check_last(model: Any, last: nn.Module, reader: Any) -> None:
    """Raises ModelError where what a model gives is not what its last layer does, as with two heads."""
    held: list[torch.Tensor] = []
    handle = last.register_forward_hook(lambda _module, _args, output: held.append(output))
    images = torch.linspace(-1, 1, 2 * math.prod(reader.shape), device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            given = model(pixel_values=images.reshape(2, *reader.shape)).logits
    finally:
        handle.remove()
    if len(held) != 1 or not torch.equal(held[0], given):
        raise ModelError(
            f"model.source: expected a model whose last layer's numbers are its answer, got "
            f"{type(model).__name__}, which makes something else of them: choose another model"
        )


def size_of_fit(model: nn.Module) -> int:
    """In how many directions a model with a ``GaussianFit`` in it sees examples."""
    return next(module.size for module in model.modules() if isinstance(module, GaussianFit))


def write_fitted(model: Any, folder: Path, *, head: str, inputs: Sequence[str]) -> Path:
    """Write the fit of a model, and a program that puts it on the trunk; where the trunk is to be written.

    ``model`` then has a layer of zeros where its fit was, as transformers' class has one.
    """
    place = head.removesuffix(f".{_FIT}")
    network = model.get_submodule(place)
    names = {"kind": type(model).__name__, "trunk": TRUNK, "head": place}
    write_network(network, folder, inputs=inputs, loader=_LOADER, names=names)
    layer = nn.Linear(network.made_of["parts"][0], model.config.num_labels)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    model.set_submodule(place, layer)
    return folder / TRUNK
