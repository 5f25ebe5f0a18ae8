"""A pretrained classifier of transformers' that hears samples, and their scale, without torchaudio."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from privacy.errors import ModelError
from protocol.job.job import Job
from protocol.plain_text import first_line
from tasks.data.sound_files import SoundShape
from tasks.model.base_model import BaseModel
from tasks.model.device import Device
from tasks.model.media_base import PREPROCESSOR, MediaClassifier, load_media_classifier, preprocessing

_SUCH_AS = "Wav2Vec2, HuBERT or WavLM"


def load_sound_classifier(
    job: Job, *, labels: tuple[str, ...], device: Device, shape: SoundShape
) -> BaseModel:
    """Load, try, freeze and digest a classifier of samples; its reader is ``shape`` with the model's scale.

    What its checkpoint lacks is drawn from ``seeds.adapter``, and its head's last layer is zero, or as it
    was trained. Raises ModelError with the key to change.
    """
    return load_media_classifier(
        job,
        purpose=MediaClassifier(
            labels=labels, trained=job.model.head == "checkpoint", medium="AUDIO", such_as=_SUCH_AS
        ),
        device=device,
        check=_check_samples,
        read=partial(_with_scale, shape),
        attempt=_try,
    )


def save_sound_classifier(model: Any, folder: Path, reader: SoundShape) -> None:
    """Write a model for transformers' ``from_pretrained``, and how its samples are scaled."""
    model.save_pretrained(folder)
    table = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_value": 0.0}
    table |= {"sampling_rate": reader.rate, "do_normalize": reader.standardized}
    (folder / PREPROCESSOR).write_text(json.dumps(table, indent=1), "utf-8")


def _check_samples(config: Any) -> None:
    """Raises ModelError for a model that reads a spectrum, as Whisper and AST do."""
    if not hasattr(config, "conv_stride"):
        raise ModelError(
            f"model.source: {config.model_type!r} reads spectra, which are not made here: expected a model "
            f"that hears samples, such as {_SUCH_AS}"
        )


def _with_scale(shape: SoundShape, where: str, options: dict[str, Any]) -> SoundShape:
    """The shape with the scale that comes with a model: none where it has no preprocessor_config.json."""
    table = preprocessing(where, options) or {}
    rate = table.get("sampling_rate", shape.rate)
    if rate != shape.rate:
        raise ModelError(f"data.rate={shape.rate}: expected {rate}, which the model was made for")
    return replace(shape, standardized=bool(table.get("do_normalize", False)))


def _try(model: Any, reader: SoundShape) -> None:
    """Raises ModelError for a model that cannot be run on sounds of this length."""
    sounds = torch.zeros((2, reader.shape[1]), device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            model(sounds)
    except Exception as error:  # a model's code raises whatever it likes
        raise ModelError(
            f"{type(model).__name__} cannot be run on {reader.seconds:g} seconds of sound: "
            f"{first_line(error)}. Choose another data.seconds"
        ) from error
