"""What a model makes of images with masks: the label of each pixel, and how well regions overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tasks.label_scores import scores_of
from tasks.measures import LOSS, Measure
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch

_FOCUS = 2.0  # the paper's
_SMOOTH = 1.0  # pixels: a label that neither mask nor answer has is no fault


@dataclass(frozen=True, kw_only=True)
class MaskOutcome(Outcome):
    """An outcome with how many pixels have each label: ``masked``, ``answered``, and both, ``hits``.

    Each is int64[b, labels]. Dice, which is F1 of pixels, is twice the last by the sum of the others.
    ``logits``, float32[b, labels, …], and ``masks``, int64[b, …], are what it was made of.
    """

    masked: torch.Tensor
    answered: torch.Tensor
    hits: torch.Tensor
    logits: torch.Tensor
    masks: torch.Tensor

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
            masked=right.flatten(2).sum(2),
            answered=answers.flatten(2).sum(2),
            hits=hits,
            logits=logits,
            masks=masks,
        )

    def told(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the labels of each pixel, and the mask's: see ``Probable``."""
        logs = self.logits.detach().cpu().double().log_softmax(1)
        return logs.movedim(1, -1).flatten(0, -2), self.masks.flatten().cpu()

    def given(self, logs: torch.Tensor) -> MaskOutcome:
        """The same images under other log-probabilities: see ``Probable``."""
        masks = self.masks.cpu()
        return MaskOutcome.of(logs.reshape(*masks.shape, -1).movedim(-1, 1), masks)

    def sums(self) -> dict[str, float]:
        """Beside the counts of all tasks, pixels by label, as a classifier counts examples."""
        found = super().sums()
        for name, counts in (("examples", self.masked), ("answered", self.answered), ("hits", self.hits)):
            found |= {f"{name} {label}": float(n) for label, n in enumerate(counts.sum(0).tolist())}
        return found


def _dice(sums: Mapping[str, float]) -> list[float]:
    """Dice by label, over all pixels together, but of the first label, what is around (Dice 1945).

    Of a label that neither masks nor answers have it is 1.
    """
    labels = sum(key.startswith("examples ") for key in sums)
    scores = scores_of(sums, [f"{label}" for label in range(labels)])
    return [score.f1 if score.examples or score.answered else 1.0 for score in [*scores.values()][1:]]


def _mean_dice(sums: Mapping[str, float]) -> float:
    found = _dice(sums)
    return sum(found) / len(found)


def _least_dice(sums: Mapping[str, float]) -> float:
    return min(_dice(sums))


DICE = Measure(name="dice", title="Dice", of=_mean_dice)
LEAST_DICE = Measure(name="least_dice", title="Dice of the worst label", of=_least_dice)
MASK_LOSS = replace(LOSS, title="loss", unit="")
