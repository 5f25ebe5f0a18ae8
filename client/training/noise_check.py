"""The privacy-unit check's last part: what a step releases when nobody is drawn is the plan's noise."""

from __future__ import annotations

import math

import torch
from scipy.special import gammainc, gammaincc  # type: ignore[import-untyped]

from client.training.gradients import Gradients
from client.training.step import add_batch, nobody
from client.training.sum_check import released_sum, silent_optimizer
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import fresh_source
from tasks.model.adapted_model import AdaptedModel

_STEPS = 2
# How likely right noise fails one of the comparisons below, of which a model has some hundreds.
_ERROR = 1e-10
# Zeros that right noise may have: one number in 10^12 is zero, so three of 10^8 hardly ever are.
_ZEROS = 2
# So many numbers that agree were drawn once: float32 makes two alike at one in 10^7.
_FINGERPRINT = 4


def check_noise(adapted: AdaptedModel, mechanism: Mechanism) -> None:
    """Take steps in which nobody is drawn, with fresh noise, and look at what they release.

    Each number of each tensor must have noise; the noise of a tensor in a step must be its own; and it
    must be as wide as planned, no less and no more. Raises PrivacyUnitError naming the layer. Right noise
    is refused with a probability under 1e-6.
    """
    optimizer = silent_optimizer(adapted, mechanism, clipping_norm=1.0)
    optimizer.source = fresh_source()
    seen: dict[tuple[float, ...], str] = {}
    for step in range(1, _STEPS + 1):
        add_batch(optimizer, nobody(adapted), last=True)
        noise = {
            name: tensor.detach().cpu().double().flatten()
            for name, tensor in released_sum(adapted, optimizer, bound=1.0, drawn=0).items()
        }
        _check_present(noise)
        for name, numbers in noise.items():
            _check_own(seen, tuple(numbers[:_FINGERPRINT].tolist()), f"{name} in step {step}")
            _check_width(name, numbers, mechanism)
        _check_width("all tensors together", torch.cat(list(noise.values())), mechanism)


def _check_present(noise: Gradients) -> None:
    for name, numbers in noise.items():
        bare = int((numbers == 0).sum())
        if bare > min(_ZEROS, len(numbers) - 1):
            raise PrivacyUnitError(
                f"{name}: {bare} of {len(numbers)} numbers are released without noise; expected none"
            )


def _check_own(seen: dict[tuple[float, ...], str], fingerprint: tuple[float, ...], where: str) -> None:
    if len(fingerprint) < _FINGERPRINT:
        return
    first = seen.setdefault(fingerprint, where)
    if first != where:
        raise PrivacyUnitError(f"{where}: the noise is that of {first}; expected noise of its own")


def _check_width(name: str, numbers: torch.Tensor, mechanism: Mechanism) -> None:
    """Gaussian numbers' squares, or twice a Laplace's sizes, add up to a χ² number, over their scales."""
    scaled = numbers / mechanism.multiplier
    laplace = mechanism.name == "laplace"
    found = float(2.0 * scaled.abs().sum() if laplace else scaled.square().sum())
    freedom = len(numbers) * (2 if laplace else 1)
    below, above = gammainc(freedom / 2, found / 2), gammaincc(freedom / 2, found / 2)
    if not min(below, above) >= _ERROR:
        width = found / freedom if laplace else math.sqrt(found / freedom)
        raise PrivacyUnitError(
            f"{name}: the noise of a step is {width:.3g} times as wide as planned; expected once"
        )
