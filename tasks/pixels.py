"""What models of images are given, and what they answer, whoever made them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tasks.data.image_files import ImageShape


def scaled_pixels(values: torch.Tensor, shape: ImageShape) -> torch.Tensor:
    """Pixels from 0 to 255, [b, channels, …], as the model wants them: from -1 to 1, if it says no else."""
    pixels = values.float() / 255
    mean, deviation = (pixels.new_tensor(one)[:, None, None] for one in (shape.mean, shape.deviation))
    return (pixels - mean) / deviation


def image_logits(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What a model of transformers', or of a task's own, makes of a batch."""
    return logits_in(model(pixels))


def logits_in(found: Any) -> torch.Tensor:
    """The logits in what a model gives: themselves, or beside other things."""
    import torch

    logits: torch.Tensor = found if isinstance(found, torch.Tensor) else found.logits
    return logits


def trunk_inputs(shape: ImageShape) -> str:
    """What the pixels are that the model in an export's ``trunk/`` is given, in words."""
    return (
        f"pixels float32[b, channels, size, size]: 0 to 1, less {list(shape.mean)} and by "
        f"{list(shape.deviation)}, after scaling to fit {shape.size} by {shape.size} with proportions kept "
        "and black beside it"
    )


def any_pixels(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Pixels of any brightness."""
    return random.integers(0, 256, shape, "uint8")
