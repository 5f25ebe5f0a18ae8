"""An encoder of voices from its folder, under a linear layer that is trained: nothing of it is a pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from privacy.canonical import canonical_json
from privacy.errors import ModelError
from protocol.job.adapter_section import no_adapter
from protocol.job.job import Job
from protocol.plain_text import first_line, quoted_some
from protocol.processes.time_spent import Part, timed
from tasks.data.package_path import locate
from tasks.data.sound_files import SoundShape
from tasks.model.base_model import BaseModel
from tasks.model.drawn_weights import DrawnWeights
from tasks.model.model_digest import model_digest
from tasks.model.model_files import check_place
from tasks.model.speaker_folder import WEIGHTS
from tasks.model.speaker_network import RATE, SpeakerNetwork

_HEAD = "classifier"


@timed(Part.MODEL)
def load_speaker_encoder(job: Job, *, labels: tuple[str, ...], shape: SoundShape) -> BaseModel:
    """Load, try, freeze and digest the encoder, under a layer of zeros for the labels.

    Raises ModelError with the key to change.
    """
    _check_job(job, shape)
    where = locate(job.model.source)
    check_place(job, where)
    with DrawnWeights(job.seeds.adapter):  # all is loaded over, and torch's own generator stays as it is
        network = SpeakerNetwork(labels=list(labels)).requires_grad_(False).eval()
    trunk = _read(job, Path(where) / WEIGHTS, network)
    for parameter in network.classifier.parameters():
        nn.init.zeros_(parameter)
    network.load_state_dict(trunk, strict=False)
    _try(job, network, trunk)
    config = canonical_json({"made_of": network.made_of, "reads": shape.as_table()})
    return BaseModel(
        model=network,
        digest=model_digest(network, config=config, tokenizer=b""),
        reader=shape,
        head=(_HEAD,),
        peft_type=None,
        limit=None,
        remarks=(
            "Sounds are heard by an encoder of voices that stays as it is; a linear layer on what it makes "
            "of them is trained.",
        ),
    )


def _try(job: Job, network: SpeakerNetwork, trunk: dict[str, torch.Tensor]) -> None:
    """Raises ModelError for weights with which noise has no voice, or none of finite numbers."""
    noise = torch.sin(torch.arange(RATE) ** 2 / 100.0)[None]  # of all frequencies, one after another
    with torch.no_grad():
        finite = all(tensor.isfinite().all() for tensor in trunk.values())
        voice = network.voices(noise) if finite else None
    if voice is None or not voice.isfinite().all() or not voice.any():
        raise ModelError(
            f"model.source={job.model.source!r}: expected an encoder of voices, got {WEIGHTS} with numbers "
            "that are not finite, or with which nothing is heard"
        )


def _check_job(job: Job, shape: SoundShape) -> None:
    """Raises ModelError for a job that wants something else of an encoder of voices than its vectors."""
    if job.adapter != no_adapter():
        raise ModelError(
            "adapter: expected no such section with an encoder of voices, which stays as it is: leave it "
            'out, with strategy.name="head"'
        )
    if job.model.head != "new":
        raise ModelError(
            f'model.head: expected "new", got "{job.model.head}": an encoder of voices has no head'
        )
    if shape.rate != RATE:
        raise ModelError(f"data.rate={shape.rate}: expected {RATE}, which the model was made for")


def _read(job: Job, path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    """The trunk's tensors by name. Raises ModelError for a file with others, before any is read."""
    source = f"model.source={job.model.source!r}"
    expected = {
        name: tensor.shape for name, tensor in network.state_dict().items() if not name.startswith(_HEAD)
    }
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != expected.keys():
                odd = quoted_some(sorted(names ^ expected.keys()))
                raise ModelError(
                    f"{source}: expected the tensors of an encoder of voices in {WEIGHTS}, as "
                    f"examples/speaker_encoder.py writes them, got otherwise for {odd}"
                )
            for name, shape in expected.items():
                part = file.get_slice(name)
                if part.get_dtype() != "F32" or part.get_shape() != list(shape):
                    raise ModelError(
                        f"{source}: {name}: expected float32 of {list(shape)}, got {part.get_dtype()} of "
                        f"{part.get_shape()}"
                    )
            return {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{source}: {WEIGHTS} could not be loaded: {first_line(error)}. Fetch the weights again"
        ) from error
