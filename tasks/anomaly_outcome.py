"""How far examples are from the usual, and how well that tells odd ones from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tasks.label_outcome import AUC, count_scores, scores_by_label
from tasks.measures import ACCURACY, Measure
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch

_ALARMS = 0.01  # of the usual examples
_NORMAL_99 = 2.3263478740408408  # what a normal number is under, of a hundred in 99


@dataclass(frozen=True, kw_only=True)
class AnomalyOutcome(Outcome):
    """An outcome with squared ``distances``, float32[b], and which examples are ``odd``, bool[b]."""

    distances: torch.Tensor
    odd: torch.Tensor

    @classmethod
    def of(
        cls, said: torch.Tensor, distances: torch.Tensor, odd: torch.Tensor, *, size: int
    ) -> AnomalyOutcome:
        """Of what a fit says of each example, float32[b], and distances over ``size`` directions.

        A usual example's loss is what is said of it, with the other sign: it is linear in the fit, and its
        gradient is the example's own part of the sums that are fitted. An odd one has none.
        """
        import torch

        alarms = distances > alarm_at(size)
        return cls(
            losses=-said * ~odd,
            correct=(alarms == odd).long(),
            counted=torch.ones_like(odd, dtype=torch.int64),
            distances=distances.detach(),
            odd=odd,
        )

    def sums(self) -> dict[str, float]:
        """Scores are logarithms of distances, in steps of a hundredth."""
        found = super().sums()
        far = self.distances.double().cpu().clamp(min=1e-9).log()
        return found | count_scores(far[:, None], self.odd.cpu()[:, None])


def alarm_at(size: int) -> float:
    """The squared distance that of usual examples 1 % are over, if they are normal, in so many directions.

    Source: Wilson and Hilferty 1931, for a χ² distribution.
    """
    part = 2 / (9 * size)
    return float(size * (1 - part + _NORMAL_99 * math.sqrt(part)) ** 3)


def recall_at_false_alarms(sums: Mapping[str, float], *, share: float) -> float:
    """The share of odd examples that are further than all but a ``share`` of the usual ones.

    Of equal distances at the end, as many as fit. 0 without any odd example.
    """
    for scores in scores_by_label(sums):
        usual, odd = (sum(one[kind] for one in scores.values()) for kind in (0, 1))
        left, found = share * usual, 0.0
        for step in sorted(scores, reverse=True):
            without, having = scores[step]
            fits = min(1.0, left / without) if without else 1.0
            found, left = found + fits * having, left - fits * without
            if fits < 1.0:
                break
        return found / odd if odd else 0.0
    return 0.0


RECALL = Measure(
    name="recall_at_1",
    title="recall at 1 % false alarms",
    of=lambda sums: recall_at_false_alarms(sums, share=_ALARMS),
    share=True,
)
TOLD = replace(ACCURACY, title="told right by a χ² alarm")
ANOMALY = (AUC, RECALL, TOLD)
