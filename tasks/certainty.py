"""How far a model's probabilities can be trusted: calibration, uncertainty, and errors among the surest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch

    from tasks.task import Outcome

BINS = 15  # of confidence, as in Guo et al. 2017
SHARES = tuple(n / 10 for n in range(1, 11))
# Answers are put in order by their log odds, in steps of a hundredth up to odds of 5e8.
_STEPS_A_UNIT, _FURTHEST = 100, 20
_STEPS = 2 * _STEPS_A_UNIT * _FURTHEST + 1


@runtime_checkable
class Probable(Protocol):
    """An outcome whose answers have probabilities: one of a few labels, each by itself."""

    def told(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities, float64[m, labels], and what was so, int64[m]; -1 where nobody knows."""

    def given(self, logs: torch.Tensor) -> Outcome:
        """The same examples under other log-probabilities, [m, labels].

        What measures make of it is right but for the loss, which a task may define otherwise: it is NaN.
        """


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Answers of about one confidence: how many, their mean ``confidence``, and the share that is right."""

    answers: int
    confidence: float
    right: float


@dataclass(frozen=True, kw_only=True)
class Certainty:
    """What held-out ``answers`` say of a model's probabilities.

    ``bins`` are those with answers, the least confident first. ``surest`` is the share of errors among so
    large a share of the answers, those with the highest confidence; ties count in proportion. Entropies
    are in nats, means over the right answers and over the wrong ones, None without any. ``disagreement`` is
    the same of what several models' answers differ by, None for one model. ``tells_errors`` is the chance
    that a wrong answer is less sure than a right one, ties by half.
    """

    answers: int
    brier: float
    bins: tuple[Bin, ...]
    surest: tuple[tuple[float, float], ...]
    entropy: tuple[float | None, float | None]
    disagreement: tuple[float | None, float | None] | None
    tells_errors: float | None

    @property
    def calibration_error(self) -> float:
        """By how much confidence and the share of right answers differ, on average over the answers.

        Source: Guo et al. 2017 (arXiv:1706.04599), equation 3.
        """
        off = sum(abs(one.confidence - one.right) * one.answers for one in self.bins)
        return off / self.answers

    @property
    def errors(self) -> float:
        """The share of all answers that is wrong."""
        return self.surest[-1][1]


def mean_of(members: Sequence[torch.Tensor]) -> torch.Tensor:
    """The logarithm of the mean of probabilities, of whose logarithms [m, labels] these are.

    Source: Lakshminarayanan et al. 2017 (arXiv:1612.01474), section 2.4.
    """
    import torch

    found: torch.Tensor = torch.stack(list(members)).logsumexp(0) - math.log(len(members))
    return found


def entropy(logs: torch.Tensor) -> torch.Tensor:
    """In nats, [m], of log-probabilities [m, labels]."""
    import torch

    found: torch.Tensor = torch.special.entr(logs.exp()).sum(-1)
    return found


class CertaintyTally:
    """Adds up what ``Certainty`` tells, batch by batch: what it keeps does not grow with the answers."""

    def __init__(self) -> None:
        self._bins = np.zeros((BINS, 3))  # answers, their confidence, those that are right
        self._steps = np.zeros((_STEPS, 2))  # wrong and right answers, the least sure first
        self._entropy, self._apart = np.zeros(2), np.zeros(2)
        self._squared = 0.0

    def add(self, members: Sequence[torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
        """Answers of one model, or of several together: log-probabilities float64[m, labels] of each.

        Those whose ``truth``, int64[m], is -1 do not count. Returns the log-probabilities of all together.
        """
        import torch

        together = mean_of(members)
        told = truth >= 0
        logs, labels = together[told], truth[told]
        best = logs.argmax(-1, keepdim=True)
        right = (best[:, 0] == labels).long().numpy()
        confidence = logs.exp().gather(1, best)[:, 0]
        places = (confidence * BINS).long().clamp(max=BINS - 1).numpy()
        for column, weights in enumerate((None, confidence.numpy(), right)):
            self._bins[:, column] += np.bincount(places, weights, minlength=BINS)
        # Near 1 a difference would lose its digits: 1 - p is the others' sum.
        odds = (logs.gather(1, best) - logs.scatter(1, best, -torch.inf).logsumexp(-1, keepdim=True))[:, 0]
        steps = (odds.clamp(-_FURTHEST, _FURTHEST) * _STEPS_A_UNIT).round().long() + _STEPS // 2
        keys = 2 * steps.numpy() + right
        self._steps += np.bincount(keys, minlength=2 * _STEPS).reshape(_STEPS, 2)
        whole = entropy(logs)
        # What is left of the entropy when each member's own is taken away: the mutual information of an
        # answer and of whose it is (Houlsby et al. 2011, arXiv:1112.5745, equation 2).
        apart = whole - torch.stack([entropy(one[told]) for one in members]).mean(0)
        self._entropy += np.bincount(right, whole.numpy(), minlength=2)
        self._apart += np.bincount(right, apart.clamp(min=0).numpy(), minlength=2)
        known = torch.nn.functional.one_hot(labels, logs.shape[1])
        self._squared += float((logs.exp() - known).square().sum())
        return together

    def result(self, *, several: bool) -> Certainty:
        """What was added up, of one model or of several. Raises ValueError if nothing was."""
        wrong, right = self._steps.sum(0)
        answers = wrong + right
        if not answers:
            raise ValueError("expected an answer at least, got none")
        return Certainty(
            answers=int(answers),
            brier=self._squared / answers,
            bins=tuple(
                Bin(answers=int(count), confidence=float(sure / count), right=float(hits / count))
                for count, sure, hits in self._bins
                if count
            ),
            surest=tuple((share, self._errors_among(share * answers)) for share in SHARES),
            entropy=_means(self._entropy, wrong, right),
            disagreement=_means(self._apart, wrong, right) if several else None,
            tells_errors=self._told() if wrong and right else None,
        )

    def _errors_among(self, count: float) -> float:
        """The share of errors among so many of the surest answers.

        Source: Geifman and El-Yaniv 2017 (arXiv:1705.08500), equation 2.
        """
        downwards = self._steps[::-1]
        each = downwards.sum(1)
        before = np.cumsum(each) - each
        taken = np.clip((count - before) / np.where(each, each, 1.0), 0.0, 1.0)
        return float((downwards[:, 0] * taken).sum() / count)

    def _told(self) -> float:
        wrong, right = self._steps.T
        below = np.cumsum(wrong) - wrong / 2
        return float((right * below).sum() / (wrong.sum() * right.sum()))


def _means(sums: np.ndarray, wrong: float, right: float) -> tuple[float | None, float | None]:
    """Of right answers, and of wrong ones."""
    return (
        float(sums[1] / right) if right else None,
        float(sums[0] / wrong) if wrong else None,
    )
