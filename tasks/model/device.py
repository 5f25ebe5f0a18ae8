"""The device: where tensors live, in which precision, on how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from privacy.errors import UserError
from protocol.job.job import DeviceSection


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where the model runs. Parameters are float32 and clipped sums integers, whatever the precision.

    With ``offload`` the weights of frozen layers wait in main memory while another layer computes.
    """

    torch: torch.device
    bfloat16: bool
    offload: bool = False

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for forward passes, or nothing."""
        return torch.autocast(self.torch.type, torch.bfloat16, enabled=self.bfloat16)

    @property
    def attention(self) -> str:
        """transformers' attention: on CPU and short texts the plain one has the faster backward."""
        return "eager" if self.torch.type == "cpu" else "sdpa"

    def __str__(self) -> str:
        return f"{self.torch}, {'bfloat16' if self.bfloat16 else 'float32'}"


def choose_device(section: DeviceSection) -> Device:
    """Resolve ``auto``: CUDA, then MPS, then CPU; bfloat16 where the hardware multiplies it.

    Also sets how many threads torch uses in this process. Raises UserError if the device is absent.
    """
    name = present_device(section.name)
    torch.set_num_threads(section.threads or len(os.sched_getaffinity(0)))
    chosen = torch.device(name)
    automatic = section.precision == "auto"
    return Device(
        torch=chosen,
        bfloat16=_has_bfloat16(chosen) if automatic else section.precision == "bfloat16",
        offload=section.offload,
    )


def whole_on(section: DeviceSection) -> DeviceSection:
    """The device for what needs all of a model's weights at once: the processor where they wait for it."""
    if not section.offload:
        return section
    return section.model_copy(update={"name": "cpu", "offload": False})


@contextmanager
def without_subnormals() -> Iterator[None]:
    """Within this block this thread takes subnormal numbers for zero, where the processor can.

    Products with them may take 300 times as long, and whoever chooses a model or an adapter could have
    texts make them. Threads of torch's that begin within the block do so for good; a pool is made at its
    first use, so the block must be around that.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def present_device(name: str) -> str:
    """The device that a name means, which is here. Raises UserError, naming those that are."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    here = ["cpu", *["cuda"] * (cuda > 0), *(f"cuda:{number}" for number in range(cuda)), *["mps"] * mps]
    if name not in here:
        raise UserError(
            f"device.name={name!r}: this machine has no such device: expected auto or one of "
            f"{', '.join(here)}"
        )
    return name


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
