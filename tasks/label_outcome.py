"""What a classifier's probabilities say of held-out examples, beside how often its answers are right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tasks.label_scores import LabelScore, macro_f1, macro_recall, scores_of
from tasks.measures import ACCURACY, LOSS, Measure
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch

# Scores are log odds in steps of a hundredth, up to odds of 5e8: ties within a step count half.
_STEPS_A_UNIT, _FURTHEST = 100, 20
_STEPS = 2 * _STEPS_A_UNIT * _FURTHEST + 1
_BINS = 15  # of confidence, as in the paper


def focal(losses: torch.Tensor, focus: float) -> torch.Tensor:
    """Cross-entropies as focal losses: what is told right with confidence weighs less; with 0, all alike.

    Source: Lin et al. 2017 (arXiv:1708.02002), equation 4.
    """
    if not focus:
        return losses
    # Far from 0, where a power below 1 has no finite slope.
    missed = (-(-losses).expm1()).clamp(min=1e-9)
    return missed**focus * losses


@dataclass(frozen=True, kw_only=True)
class LabelOutcome(Outcome):
    """A classifier's outcome with ``logits``, float32[m, labels], and the right ``labels``, int64[m].

    m counts answers: one an example for most tasks, one a token for those that label words, where one of -1
    is none.
    """

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

    def told(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the labels of each answer, and the right one: see ``Probable``."""
        return self.logits.detach().cpu().double().log_softmax(-1), self.labels.cpu()

    def given(self, logs: torch.Tensor) -> LabelOutcome:
        """The same examples under other log-probabilities: see ``Probable``."""
        import torch

        answers, labels = logs.argmax(-1), self.labels.cpu()
        hits = ((answers == labels) & (labels >= 0)).long()
        return replace(
            self,
            losses=torch.full_like(self.losses, torch.nan),
            correct=hits.reshape(len(self.correct), -1).sum(1),
            answers=None if self.answers is None else answers,
            logits=logs,
            labels=labels,
        )

    def sums(self) -> dict[str, float]:
        """Beside all tasks' counts: squared errors, confidence by bin, answers and scores by label."""
        import torch

        told = self.labels >= 0
        logs = self.logits[told].detach().double().cpu().log_softmax(-1)
        labels, shares = self.labels[told].cpu(), logs.exp()
        confidence, answers = shares.max(-1)
        right = torch.nn.functional.one_hot(labels, logs.shape[1])
        bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
        off = torch.bincount(bins, weights=confidence - (answers == labels).double(), minlength=_BINS)
        # log(p / (1 - p)); near 1 a difference would lose its digits, so there 1 - p is the others' sum.
        others = torch.log1p(-shares)
        best = answers.unsqueeze(-1)
        without = logs.scatter(1, best, -torch.inf).logsumexp(-1, keepdim=True)
        return (
            super().sums()
            | {"squared": float((shares - right).square().sum())}
            | {f"bin {number}": value for number, value in enumerate(off.tolist())}
            | _count_answers(labels, answers, count=logs.shape[1])
            | count_scores(logs - others.scatter(1, best, without), right.bool())
        )


def _count_answers(labels: torch.Tensor, answers: torch.Tensor, *, count: int) -> dict[str, float]:
    """By label, how many have it, are answered so, both, and what else those that have it are answered."""
    import numpy as np

    found: defaultdict[str, float] = defaultdict(float)
    pairs, times = np.unique((labels * count + answers).numpy(), return_counts=True)
    for pair, number in zip(pairs.tolist(), times.tolist(), strict=True):
        label, answer = divmod(pair, count)
        found[f"examples {label}"] += number
        found[f"answered {answer}"] += number
        found[f"hits {label}" if answer == label else f"mistakes {label} {answer}"] += number
    return dict(found)


def count_scores(odds: torch.Tensor, has: torch.Tensor) -> dict[str, float]:
    """By label, how many have each score, of those without the label and of those with it.

    ``odds`` are log odds, float64[m, labels], and ``has`` is bool[m, labels].
    """
    import numpy as np
    import torch

    steps = (odds.clamp(-_FURTHEST, _FURTHEST) * _STEPS_A_UNIT).round().long() + _STEPS // 2
    numbers = torch.arange(odds.shape[1]).expand_as(steps)
    keys, times = np.unique(((numbers * _STEPS + steps) * 2 + has.long()).numpy(), return_counts=True)
    return {
        f"score {key // 2 // _STEPS} {key // 2 % _STEPS - _STEPS // 2} {key % 2}": float(number)
        for key, number in zip(keys.tolist(), times.tolist(), strict=True)
    }


def _by_number(sums: Mapping[str, float]) -> dict[str, LabelScore]:
    """Scores by a label's number, whatever the label is called."""
    last = max(
        (int(key.split()[1]) for key in sums if key.startswith(("examples ", "answered "))), default=-1
    )
    return scores_of(sums, [str(number) for number in range(last + 1)])


def _auc(sums: Mapping[str, float]) -> float:
    """The chance that an example of a label scores higher than one without it; ties count half.

    The mean over the labels that some examples have and some have not; 0.5 where there is none. Source:
    Hanley and McNeil 1982, and for several labels Provost and Domingos 2000 without their weights.
    """
    areas = [area for scores in scores_by_label(sums) if (area := _area(scores)) is not None]
    return sum(areas) / len(areas) if areas else 0.5


def scores_by_label(sums: Mapping[str, float]) -> Iterator[dict[int, list[float]]]:
    """By label: how many examples have each score, of those without the label and of those with it."""
    found: defaultdict[int, defaultdict[int, list[float]]] = defaultdict(
        lambda: defaultdict(lambda: [0, 0])
    )
    for key, count in sums.items():
        if key.startswith("score "):
            label, step, has = map(int, key.split()[1:])
            found[label][step][has] += count
    for _, scores in sorted(found.items()):
        yield scores


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
    name="balanced_accuracy",
    title="balanced accuracy",
    of=lambda sums: macro_recall(_by_number(sums)),
    share=True,
)
MACRO_F1 = Measure(
    name="f1", title="mean F1 of the labels", of=lambda sums: macro_f1(_by_number(sums)), share=True
)
BRIER = Measure(name="brier", title="Brier score", of=_brier, lower_is_better=True)
CALIBRATION = Measure(
    name="calibration_error", title="calibration error", of=_calibration_error, lower_is_better=True
)
# What a classifier is judged by, unless its task says else.
CLASSIFIER = (ACCURACY, BALANCED_ACCURACY, MACRO_F1, AUC, BRIER, CALIBRATION, LOSS)
