"""The privacy-unit check's last part: what a step releases when nobody is drawn is the plan's noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.special import gammainc, gammaincc  # type: ignore[import-untyped]

from client.training.adaptive_norm import AdaptiveNorm
from client.training.step import add_batch, nobody
from client.training.sum_check import released_sum, silent_optimizer
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import STEPS
from privacy.mechanisms.counted_sum import GRADIENT_STEPS
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
    must be as wide as planned, no less and no more. So must Gaussian noise be with a count beside the sum,
    and the count must have noise. Raises PrivacyUnitError naming the layer. Right noise
    is refused with a probability under 1e-6.
    """
    optimizer = silent_optimizer(adapted, mechanism, clipping_norm=1.0)
    optimizer.source = fresh_source()
    seen: dict[tuple[float, ...], str] = {}
    for step in range(1, _STEPS + 1):
        add_batch(optimizer, nobody(adapted), last=True)
        released = released_sum(adapted, optimizer, bound=1.0, drawn=0)
        widths = []
        for name, tensor in released.items():
            numbers = tensor.detach().cpu().flatten().double()
            _check_present(name, numbers)
            _check_own(seen, tuple(numbers[:_FINGERPRINT].tolist()), f"{name} in step {step}")
            widths.append(_Width.of(numbers, mechanism))
            widths[-1].check(name)
        _Width.together(widths).check("all tensors together")
    if mechanism.name == "gaussian":
        _check_counted(adapted, mechanism)


def _check_counted(adapted: AdaptedModel, mechanism: Mechanism) -> None:
    """Take a step that counts whom its norm spares, and release both."""
    start = AdaptiveNorm(quantile=0.5, value=1.0)
    optimizer = silent_optimizer(adapted, mechanism, clipping_norm=1.0, adaptive=start)
    optimizer.source = fresh_source()
    add_batch(optimizer, nobody(adapted), last=True)
    released = released_sum(adapted, optimizer, bound=1.0, drawn=0)
    wider = replace(mechanism, multiplier=mechanism.multiplier * STEPS / GRADIENT_STEPS)
    numbers = {name: tensor.detach().cpu().flatten().double() for name, tensor in released.items()}
    for name, found in numbers.items():
        _check_present(name, found)
    _Width.together([_Width.of(found, wider) for found in numbers.values()]).check("a step with a count")
    if optimizer.adaptive is None or optimizer.adaptive.value == start.value:
        raise PrivacyUnitError("the count that moves the clipping norm is released without noise")


@dataclass(frozen=True, kw_only=True)
class _Width:
    """How wide noise is: a sum that is a χ² number of so many degrees of freedom, if it is as planned."""

    total: float
    freedom: int
    power: int  # of the noise's scale, that the sum grows with

    @classmethod
    def of(cls, numbers: torch.Tensor, mechanism: Mechanism) -> _Width:
        """Squares of Gaussian numbers over their variance, or twice a Laplace's sizes over its scale."""
        scaled = numbers / mechanism.multiplier
        if mechanism.name == "laplace":
            return cls(total=float(2.0 * scaled.abs().sum()), freedom=2 * len(numbers), power=1)
        return cls(total=float(scaled.square().sum()), freedom=len(numbers), power=2)

    @classmethod
    def together(cls, widths: Sequence[_Width]) -> _Width:
        total, freedom = sum(one.total for one in widths), sum(one.freedom for one in widths)
        return cls(total=total, freedom=freedom, power=widths[0].power)

    def check(self, name: str) -> None:
        """Raises PrivacyUnitError if so little or so much is hardly ever found."""
        below = gammainc(self.freedom / 2, self.total / 2)
        above = gammaincc(self.freedom / 2, self.total / 2)
        if not min(below, above) >= _ERROR:
            times = (self.total / self.freedom) ** (1 / self.power)
            raise PrivacyUnitError(
                f"{name}: the noise of a step is {times:.3g} times as wide as planned; expected once"
            )


def _check_present(name: str, numbers: torch.Tensor) -> None:
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
