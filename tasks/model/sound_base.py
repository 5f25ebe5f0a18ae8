"""A pretrained classifier of transformers' that hears samples or Whisper's spectra, without torchaudio."""

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
from tasks.data.sound_files import SoundShape, Spectrum
from tasks.model.base_model import BaseModel
from tasks.model.device import Device
from tasks.model.log_mel import log_mel
from tasks.model.media_base import PREPROCESSOR, MediaClassifier, load_media_classifier, preprocessing

_SUCH_AS = "Wav2Vec2, HuBERT, WavLM or Whisper"
_SPECTRAL = "whisper"
_EXTRACTOR, _WHISPER = "feature_extractor_type", "WhisperFeatureExtractor"
# What Whisper hears where its preprocessor_config.json says nothing else, and how long: in seconds.
_MOST = 1 << 16  # of any of these numbers
_USUAL = {"feature_size": 80, "n_fft": 400, "hop_length": 160, "chunk_length": 30, "sampling_rate": 16_000}


def load_sound_classifier(
    job: Job, *, labels: tuple[str, ...], device: Device, shape: SoundShape
) -> BaseModel:
    """Load, try, freeze and digest a classifier of sounds; its reader is ``shape`` with the model's scale.

    What its checkpoint lacks is drawn from ``seeds.adapter``, and its head's last layer is zero, or as it
    was trained. Raises ModelError with the key to change.
    """
    return load_media_classifier(
        job,
        purpose=MediaClassifier(
            labels=labels, trained=job.model.head == "checkpoint", medium="AUDIO", such_as=_SUCH_AS
        ),
        device=device,
        check=_check_heard,
        read=partial(_as_heard, shape),
        attempt=_try,
    )


def save_sound_classifier(model: Any, folder: Path, reader: SoundShape) -> None:
    """Write a model for transformers' ``from_pretrained``, and how its samples are scaled."""
    model.save_pretrained(folder)
    table: dict[str, Any] = {"sampling_rate": reader.rate, "padding_value": 0.0}
    heard = reader.spectrum
    if heard is None:
        table |= {_EXTRACTOR: "Wav2Vec2FeatureExtractor", "feature_size": 1}
        table |= {"do_normalize": reader.standardized}
    else:
        table |= {_EXTRACTOR: _WHISPER, "feature_size": heard.bands, "n_fft": heard.points}
        length = heard.frames * heard.step / reader.rate
        table |= {"hop_length": heard.step, "chunk_length": round(length), "return_attention_mask": False}
    (folder / PREPROCESSOR).write_text(json.dumps(table, indent=1), "utf-8")


def _check_heard(config: Any) -> None:
    """Raises ModelError for a model that reads another spectrum than Whisper's, as AST does."""
    if not hasattr(config, "conv_stride") and config.model_type != _SPECTRAL:
        raise ModelError(
            f"model.source: {config.model_type!r} reads spectra of a kind that is not made here: "
            f"expected a model such as {_SUCH_AS}"
        )


def _as_heard(shape: SoundShape, where: str, options: dict[str, Any]) -> SoundShape:
    """The shape with what comes with a model: the scale of its samples, or its spectrum.

    No scale where it has no preprocessor_config.json.
    """
    from transformers import AutoConfig

    table, config = preprocessing(where, options) or {}, AutoConfig.from_pretrained(where, **options)
    if config.model_type == _SPECTRAL:
        return replace(
            shape, spectrum=_spectrum(shape, _USUAL | {"feature_size": config.num_mel_bins} | table)
        )
    rate = table.get("sampling_rate", shape.rate)
    if rate != shape.rate:
        raise ModelError(f"data.rate={shape.rate}: expected {rate}, which the model was made for")
    return replace(shape, standardized=bool(table.get("do_normalize", False)))


def _spectrum(shape: SoundShape, table: dict[str, Any]) -> Spectrum:
    """What a model hears by its table. Raises ModelError where that is no spectrum of these sounds."""
    bands, points, step, seconds, rate = (table[key] for key in _USUAL)
    if not all(type(one) is int and 0 < one <= _MOST for one in (bands, points, step, seconds, rate)):
        raise ModelError(f"{PREPROCESSOR}: expected whole numbers above 0 for {', '.join(_USUAL)}")
    if rate != shape.rate:
        raise ModelError(f"data.rate={shape.rate}: expected {rate}, which the model was made for")
    if shape.seconds > seconds:
        raise ModelError(
            f"data.seconds={shape.seconds:g}: expected at most {seconds}, as long as the model hears"
        )
    return Spectrum(bands=bands, frames=seconds * rate // step, points=points, step=step)


def _try(model: Any, reader: SoundShape) -> None:
    """Raises ModelError for a model that cannot be run on sounds of this length."""
    sounds = torch.zeros((2, reader.shape[1]), device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            heard = reader.spectrum
            model(sounds if heard is None else log_mel(sounds, heard, rate=reader.rate))
    except Exception as error:  # a model's code raises whatever it likes
        raise ModelError(
            f"{type(model).__name__} cannot be run on {reader.seconds:g} seconds of sound: "
            f"{first_line(error)}. Choose another data.seconds"
        ) from error
