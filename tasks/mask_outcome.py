"""What a model makes of images with masks: the label of each pixel, and how well regions overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tasks.measures import LOSS, Measure
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch

_FOCUS = 2.0  # the paper's
_SMOOTH = 1.0  # pixels: a label that neither mask nor answer has is no fault


@dataclass(frozen=True, kw_only=True)
class MaskOutcome(Outcome):
    """An outcome with ``overlaps`` and ``areas``, int64[b, labels], in pixels.

    An overlap is of answer and mask, an area is both added up: Dice is twice the one by the other.
    """

    overlaps: torch.Tensor
    areas: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, masks: torch.Tensor) -> MaskOutcome:
        """Of float32[b, labels, …] and int64[b, …], from each image, or volume, alone.

        The loss is one less the mean over the labels of soft Dice (Milletari et al. 2016, arXiv:1606.04797)
        and the mean over the pixels of focal loss (Lin et al. 2017, arXiv:1708.02002, equation 4).
        """
        from torch.nn import functional

        logs = logits.log_softmax(1)
        shares, labels = logs.exp(), logits.shape[1]
        right = functional.one_hot(masks, labels).movedim(-1, 1)
        both = (shares * right).flatten(2).sum(2)
        all_of = (shares + right).flatten(2).sum(2)
        dice = ((2 * both + _SMOOTH) / (all_of + _SMOOTH)).mean(1)
        known = logs.gather(1, masks[:, None])[:, 0]
        focal = (-((1 - known.exp()) ** _FOCUS) * known).flatten(1).mean(1)
        answers = functional.one_hot(logits.argmax(1), labels).movedim(-1, 1)
        hits = (answers * right).flatten(2).sum(2)
        return cls(
            losses=1 - dice + focal,
            correct=hits.sum(1),
            counted=right.flatten(1).sum(1),
            overlaps=hits,
            areas=(answers + right).flatten(2).sum(2),
        )

    def sums(self) -> dict[str, float]:
        """Beside the counts of all tasks, overlaps and areas by label."""
        found = super().sums()
        for name, counts in (("overlap", self.overlaps), ("area", self.areas)):
            found |= {f"{name} {label}": float(n) for label, n in enumerate(counts.sum(0).tolist())}
        return found


def _dice(sums: Mapping[str, float]) -> list[float]:
    """Dice by label, over all pixels together, but of the first label, what is around (Dice 1945).

    Of a label that neither masks nor answers have it is 1.
    """
    places = [int(key.split()[1]) for key in sums if key.startswith("area ")]
    areas = [(sums[f"overlap {label}"], sums[f"area {label}"]) for label in sorted(places) if label]
    return [2 * overlap / area if area else 1.0 for overlap, area in areas]


def _mean_dice(sums: Mapping[str, float]) -> float:
    found = _dice(sums)
    return sum(found) / len(found)


def _least_dice(sums: Mapping[str, float]) -> float:
    return min(_dice(sums))


DICE = Measure(name="dice", title="Dice", of=_mean_dice)
LEAST_DICE = Measure(name="least_dice", title="Dice of the worst label", of=_least_dice)
MASK_LOSS = replace(LOSS, title="loss", unit="")
