"""What a model that tells for each label whether an example has it says of held-out examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.label_outcome import count_scores
from tasks.measures import Measure, share_correct
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LabelSetOutcome(Outcome):
    """``logits``, float32[b, labels], and which labels each example has: ``targets``, float32[b, labels].

    A label is a prediction by itself: it is answered where its logit is above 0, a probability of a half.
    """

    logits: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, targets: torch.Tensor) -> LabelSetOutcome:
        """The mean over the labels of each one's own cross-entropy."""
        import torch
        from torch.nn import functional

        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        hits = (logits > 0) == (targets > 0)
        return cls(
            losses=losses.mean(-1),
            correct=hits.long().sum(-1),
            counted=torch.full_like(hits[:, 0], logits.shape[1], dtype=torch.int64),
            logits=logits,
            targets=targets,
        )

    def told(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether each label is not there, or is, as answers of their own: see ``Probable``."""
        import torch
        from torch.nn.functional import logsigmoid

        odds = self.logits.detach().cpu().double().flatten()
        logs = torch.stack([logsigmoid(-odds), logsigmoid(odds)], dim=-1)
        return logs, (self.targets.flatten() > 0).long().cpu()

    def given(self, logs: torch.Tensor) -> LabelSetOutcome:
        """The same examples under other log-probabilities: see ``Probable``."""
        odds = (logs[:, 1] - logs[:, 0]).reshape(self.targets.shape)
        return LabelSetOutcome.of(odds, self.targets.detach().cpu().double())

    def sums(self) -> dict[str, float]:
        """Beside the counts of all tasks: answers and scores by label, and examples without a mistake."""
        odds, has = self.logits.detach().double().cpu(), self.targets.cpu() > 0
        answered = odds > 0
        counts = {"examples": has, "answered": answered, "hits": has & answered}
        return (
            super().sums()
            | {"whole": float((has == answered).all(-1).sum()), "rows": float(len(odds))}
            | {
                f"{kind} {number}": float(count)
                for kind, found in counts.items()
                for number, count in enumerate(found.sum(0).tolist())
            }
            | count_scores(odds, has)
        )


def _micro_f1(sums: Mapping[str, float]) -> float:
    """F1 of all labels' answers put together; 0 without any."""
    hits, both = (
        sum(count for key, count in sums.items() if key.startswith(kinds))
        for kinds in (("hits ",), ("examples ", "answered "))
    )
    return 2 * hits / both if both else 0.0


MICRO_F1 = Measure(name="micro_f1", title="F1 of all labels together", of=_micro_f1, share=True)
LABEL_ACCURACY = Measure(name="accuracy", title="accuracy by label", of=share_correct, share=True)
EXACT = Measure(
    name="exact",
    title="examples with all labels right",
    of=lambda sums: sums["whole"] / sums["rows"],
    share=True,
    by_example=True,
)
