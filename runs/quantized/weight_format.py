"""What a way to pack a whole model has to know: which models it takes, how it writes and loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from privacy.errors import UserError
from protocol.job.job import Job
from runs.quantized_record import WeightsError
from tasks.model.base_model import BaseModel
from tasks.model.device import Device


class WeightFormat(Protocol):
    """One value of ``--quantize``.

    Attributes:
        name: that value.
        scheme: what is packed how, a sentence without its full stop.
        loading: how a folder is loaded elsewhere, in Markdown.
    """

    name: str
    scheme: str
    loading: str

    def check_job(self, job: Job) -> None:
        """Raises UserError for a job whose models cannot be written so, before any is loaded."""

    def check_model(self, base: BaseModel) -> None:
        """Raises UserError for a model that cannot be written so, with those that can."""

    def write(self, merged: Any, base: BaseModel, job: Job, folder: Path) -> None:
        """Write a merged model and its tokenizer."""

    def load(self, folder: Path, merged: Any, device: Device) -> Any:
        """What was written, as stock transformers loads it; ``merged`` is what it was made of."""

    def weights(self, folder: Path) -> tuple[Path, ...]:
        """The files with the weights."""


def weights_error(merged: Any, loaded: Any) -> WeightsError:
    """How far a packed model's weights are from those that it was made of.

    Raises UserError where no weight differs: then nothing was packed, and the sizes would say nothing.
    """
    whole = dict(merged.named_parameters())
    squares, total, packed = 0.0, 0.0, 0
    worst, most = "", -1.0
    with torch.no_grad():
        for name, tensor in loaded.named_parameters():
            expected = whole[name].detach().cpu().double()
            off = float((_unpacked(tensor) - expected).square().sum())
            if not off:
                continue
            size = float(expected.square().sum())
            squares, total, packed = squares + off, total + size, packed + 1
            relative = (off / size) ** 0.5 if size else float("inf")
            if relative > most:
                worst, most = name, relative
    if not packed:
        raise UserError("--quantize: no weight of this model was packed: export it with --merge alone")
    return WeightsError(whole=(squares / total) ** 0.5, most=most, worst=worst, packed=packed)


def _unpacked(tensor: torch.Tensor) -> torch.Tensor:
    """What a weight stands for, in float64: bitsandbytes' int8 ones have a scale a row beside them."""
    found, scales = tensor.detach().cpu().double(), getattr(tensor, "SCB", None)
    return found if scales is None else found * (scales.detach().cpu().double() / 127)[:, None]
