"""A pretrained image classifier of transformers', and what it scales pixels by, without torchvision."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privacy.errors import ModelError
from protocol.job.job import Job
from protocol.plain_text import first_line
from tasks.data.image_files import ImageShape
from tasks.model.base_model import BaseModel
from tasks.model.device import Device
from tasks.model.media_base import PREPROCESSOR, MediaClassifier, load_media_classifier, preprocessing


def load_image_classifier(
    job: Job, *, labels: tuple[str, ...], device: Device, shape: ImageShape
) -> BaseModel:
    """Load, try, freeze and digest an image classifier; its reader makes ``shape`` with the model's scale.

    What its checkpoint lacks is drawn from ``seeds.adapter``, and its head's last layer is zero, or as it
    was trained. Raises ModelError with the key to change.
    """
    return load_media_classifier(
        job,
        purpose=MediaClassifier(
            labels=labels,
            trained=job.model.head == "checkpoint",
            medium="IMAGE",
            such_as="a ViT, DINOv2, ConvNeXt or Swin",
        ),
        device=device,
        check=partial(_check_channels, shape),
        read=partial(_with_scale, shape),
        attempt=_try,
    )


def save_image_classifier(model: Any, folder: Path, reader: ImageShape) -> None:
    """Write a model for transformers' ``from_pretrained``, and how its pixels are scaled."""
    model.save_pretrained(folder)
    side = {"height": reader.size, "width": reader.size}
    table = {"do_resize": True, "size": side, "do_rescale": True, "rescale_factor": 1 / 255}
    table |= {"do_normalize": True, "image_mean": list(reader.mean), "image_std": list(reader.deviation)}
    (folder / PREPROCESSOR).write_text(json.dumps(table, indent=1), "utf-8")


def _with_scale(shape: ImageShape, where: str, options: dict[str, Any]) -> ImageShape:
    """The shape with the means and deviations that come with a model; a half each where it has none."""
    table = preprocessing(where, options)
    if table is None:
        return shape
    factor = table.get("rescale_factor", 1 / 255)
    if not table.get("do_rescale", True) or not np.isclose(factor, 1 / 255) or table.get("rescale_offset"):
        raise ModelError(f"{PREPROCESSOR}: expected pixels from 0 to 1, such as rescale_factor = 1/255")
    plain = not table.get("do_normalize", True)
    mean = (0.0,) if plain else table.get("image_mean") or shape.mean
    deviation = (1.0,) if plain else table.get("image_std") or shape.deviation
    channels = shape.shape[0]
    means, deviations = (np.broadcast_to(np.asarray(one, float), channels) for one in (mean, deviation))
    if not (np.isfinite(means).all() and np.isfinite(deviations).all() and deviations.min() > 0):
        raise ModelError(f"{PREPROCESSOR}: expected finite image_mean and positive image_std")
    return replace(shape, mean=tuple(map(float, means)), deviation=tuple(map(float, deviations)))


def _check_channels(shape: ImageShape, config: Any) -> None:
    expected = getattr(config, "num_channels", shape.shape[0])
    if expected != shape.shape[0]:
        raise ModelError(
            f"data.colours: expected {str(expected == 3).lower()}: this model reads {expected} channels"
        )


def _try(model: Any, reader: ImageShape) -> None:
    """Raises ModelError for a model that cannot be run on images of this shape."""
    images = torch.zeros((2, *reader.shape), device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            model(pixel_values=images)
    except Exception as error:  # a model's code raises whatever it likes
        made_for = getattr(model.config, "image_size", None)
        advice = f"data.size={reader.size}: expected {made_for}, which the model was made for" * (
            made_for is not None
        )
        raise ModelError(
            f"{type(model).__name__} cannot be run on {reader.size} by {reader.size} pixels: "
            f"{first_line(error)}. {advice or 'Choose another data.size'}"
        ) from error
