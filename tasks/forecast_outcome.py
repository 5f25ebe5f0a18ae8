"""What a model says of a series' next numbers, and how good that is beside saying the last one again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.measures import Measure, share_correct
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch

_NEAR = 0.1  # of the range: what counts as right


@dataclass(frozen=True, kw_only=True)
class ForecastOutcome(Outcome):
    """An outcome with, by example and in the channel's own unit, float32[b], sums over its numbers.

    ``off`` is how far forecasts are from them, ``off_naive`` how far the last known number is, and
    ``covered``, int64[b], how many are between the lowest and the highest quantile.
    """

    off: torch.Tensor
    off_naive: torch.Tensor
    covered: torch.Tensor

    @classmethod
    def of(
        cls,
        told: torch.Tensor,
        right: torch.Tensor,
        there: torch.Tensor,
        *,
        last: torch.Tensor,
        width: float,
        quantiles: Sequence[float],
    ) -> ForecastOutcome:
        """Of forecasts, float32[b, m, levels], and what came, float32[b, m], where it is ``there``.

        ``last`` is float32[b, m], the number before, and ``width`` is the range's. The loss is the mean
        over an example's numbers of half the squared error, with the range as -1 to 1, which is a normal
        distribution's negative log-likelihood but for a constant; with ``quantiles``, of the mean of their
        pinball losses (Koenker and Bassett 1978).
        """
        import torch

        half = width / 2
        errors = (right[:, :, None] - told) / half
        if quantiles:
            levels = errors.new_tensor(quantiles)
            each = torch.maximum(levels * errors, (levels - 1) * errors).mean(-1)
            middle = list(quantiles).index(0.5)
        else:
            each, middle = errors[:, :, 0].square() / 2, 0
        # No number of a blank row is there: its loss is nobody's, and must be a number.
        counted = there.sum(1)
        off = (told[:, :, middle] - right).detach().abs()
        within = (told[:, :, 0] <= right) & (right <= told[:, :, -1])
        return cls(
            losses=(each * there).sum(1) / counted.clamp(min=1),
            correct=((off <= _NEAR * width) * there).sum(1).long(),
            counted=counted.long(),
            off=(off * there).sum(1),
            off_naive=((last - right).abs() * there).sum(1),
            covered=(within * there).sum(1).long(),
        )

    def sums(self) -> dict[str, float]:
        return super().sums() | {
            "off": float(self.off.double().sum()),
            "off_naive": float(self.off_naive.double().sum()),
            "covered": float(self.covered.sum()),
        }


def _relative(sums: Mapping[str, float]) -> float:
    """The mean error over that of the last known number; 1 where that is never wrong.

    Source: Hyndman and Koehler 2006, their scaled error, with the naive forecast of the same numbers.
    """
    return sums["off"] / sums["off_naive"] if sums["off_naive"] else 1.0


RELATIVE_ERROR = Measure(
    name="relative_error", title="error over the naive forecast's", of=_relative, lower_is_better=True
)
MEAN_ERROR = Measure(
    name="mean_error",
    title="mean error",
    of=lambda sums: sums["off"] / sums["counted"],
    lower_is_better=True,
)
WITHIN = Measure(name="accuracy", title="within a tenth of the range", of=share_correct, share=True)
COVERAGE = Measure(
    name="coverage",
    title="between the outer quantiles",
    of=lambda sums: sums["covered"] / sums["counted"],
    share=True,
)
