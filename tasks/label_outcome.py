"""What a classifier's probabilities say of held-out examples, beside how often its answers are right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.measures import Measure
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch

# Scores are log odds in steps of a hundredth, up to odds of 5e8: ties within a step count half.
_STEPS_A_UNIT, _FURTHEST = 100, 20.0
_BINS = 15  # of confidence, as in the paper


@dataclass(frozen=True, kw_only=True)
class LabelOutcome(Outcome):
    """A classifier's outcome with ``logits``, float32[b, labels], and the right ``labels``, int64[b]."""

    logits: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, labels: torch.Tensor) -> LabelOutcome:
        """Cross-entropy of each row's label."""
        import torch
        from torch.nn import functional

        answers = logits.argmax(-1)
        return cls(
            losses=functional.cross_entropy(logits, labels, reduction="none"),
            correct=(answers == labels).long(),
            counted=torch.ones_like(labels),
            answers=answers,
            logits=logits,
            labels=labels,
        )

    def sums(self) -> dict[str, float]:
        """Beside the counts of all tasks: squared errors, confidence by bin, and scores by label."""
        import torch

        found: defaultdict[str, float] = defaultdict(float, super().sums())
        logs = self.logits.detach().double().cpu().log_softmax(-1)
        labels, shares = self.labels.cpu(), logs.exp()
        right = torch.nn.functional.one_hot(labels, logs.shape[1])
        found["squared"] = float((shares - right).square().sum())
        confidence, answers = shares.max(-1)
        bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
        for number, sure, hit in zip(bins.tolist(), confidence.tolist(), answers == labels, strict=True):
            found[f"bin {number}"] += sure - float(hit)
        for label, hit in zip(labels.tolist(), answers == labels, strict=True):
            found[f"examples {label}"] += 1
            found[f"hits {label}"] += float(hit)
        # log(p / (1 - p)), with 1 - p as the others' sum: near 1 a difference would lose its digits.
        others = torch.stack(
            [
                logs[:, [c for c in range(logs.shape[1]) if c != k]].logsumexp(-1)
                for k in range(logs.shape[1])
            ],
            dim=1,
        )
        steps = ((logs - others).clamp(-_FURTHEST, _FURTHEST) * _STEPS_A_UNIT).round().long()
        for row, label in zip(steps.tolist(), labels.tolist(), strict=True):
            for number, step in enumerate(row):
                found[f"score {number} {step} {int(number == label)}"] += 1
        return dict(found)


def _balanced_accuracy(sums: Mapping[str, float]) -> float:
    """The mean of recall over the labels that have examples (Brodersen et al. 2010)."""
    counts = {key.split()[1]: count for key, count in sums.items() if key.startswith("examples ")}
    return sum(sums.get(f"hits {label}", 0.0) / count for label, count in counts.items()) / len(counts)


def _auc(sums: Mapping[str, float]) -> float:
    """The chance that an example of a label scores higher than one without it; ties count half.

    The mean over the labels that some examples have and some have not; 0.5 where there is none. Source:
    Hanley and McNeil 1982, and for several labels Provost and Domingos 2000 without their weights.
    """
    areas = [area for scores in _scores(sums) if (area := _area(scores)) is not None]
    return sum(areas) / len(areas) if areas else 0.5


def _scores(sums: Mapping[str, float]) -> Iterator[dict[int, list[float]]]:
    """By label: how many examples have each score, of those without the label and of those with it."""
    found: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(
        lambda: defaultdict(lambda: [0, 0])
    )
    for key, count in sums.items():
        if key.startswith("score "):
            _, label, step, has = key.split()
            found[label][int(step)][int(has)] += count
    yield from found.values()


def _area(scores: Mapping[int, list[float]]) -> float | None:
    below = area = total = 0.0
    for step in sorted(scores):
        without, having = scores[step]
        area += having * (below + without / 2)
        below += without
        total += having
    return area / (below * total) if below and total else None


def _brier(sums: Mapping[str, float]) -> float:
    """The mean squared distance of the probabilities from what was so, over all labels, in [0, 2]."""
    return sums["squared"] / sums["counted"]


def _calibration_error(sums: Mapping[str, float]) -> float:
    """By how much confidence and the share of right answers differ, on average over bins of confidence.

    Source: Guo et al. 2017 (arXiv:1706.04599), equation 3, with 15 bins of equal width.
    """
    return sum(abs(off) for key, off in sums.items() if key.startswith("bin ")) / sums["counted"]


AUC = Measure(name="auc", title="AUC", of=_auc)
BALANCED_ACCURACY = Measure(
    name="balanced_accuracy", title="balanced accuracy", of=_balanced_accuracy, share=True
)
BRIER = Measure(name="brier", title="Brier score", of=_brier, lower_is_better=True)
CALIBRATION = Measure(
    name="calibration_error", title="calibration error", of=_calibration_error, lower_is_better=True
)
