"""What a model's answers are worth: the counts that rewards, distance and constraint are measured by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.measures import Measure
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class RewardOutcome(Outcome):
    """Of each prompt, means over its answers, float32[b].

    ``rewards`` are what the judge says, ``distances`` how far an answer is from the base model, in nats,
    and ``kept`` the share that keeps the constraint.
    """

    rewards: torch.Tensor
    distances: torch.Tensor
    kept: torch.Tensor

    def sums(self) -> dict[str, float]:
        more = {"rewards": self.rewards, "distances": self.distances, "kept": self.kept}
        return super().sums() | {name: float(values.double().sum()) for name, values in more.items()}


def _mean(name: str) -> Callable[[Mapping[str, float]], float]:
    return lambda sums: sums[name] / sums["counted"]


MEAN_REWARD = Measure(name="reward", title="mean reward", of=_mean("rewards"))
DISTANCE = Measure(
    name="distance",
    title="distance from the base model",
    unit=", nats an answer",
    of=_mean("distances"),
    lower_is_better=True,
)
KEPT = Measure(name="kept", title="answers that keep the constraint", of=_mean("kept"), share=True)
