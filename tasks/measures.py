"""Measures: how counts that were added up over examples become numbers that people judge a model by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a whole set of examples.

    ``of`` makes it of the sums that the task's Outcome has. ``title`` is what people call it, and
    ``unit`` follows it. A ``share`` is in [0, 1]; ``by_example`` says that each example counts once in it,
    independently of the others.
    """

    name: str
    title: str
    of: Callable[[Mapping[str, float]], float]
    unit: str = ""
    share: bool = False
    by_example: bool = False
    lower_is_better: bool = False

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title}{self.unit}"


def mean_loss(sums: Mapping[str, float]) -> float:
    """Nats a prediction."""
    return sums["nats"] / sums["counted"]


def share_correct(sums: Mapping[str, float]) -> float:
    """The share of predictions that hit."""
    return sums["correct"] / sums["counted"]


LOSS = Measure(name="loss", title="loss", unit=", nats", of=mean_loss, lower_is_better=True)
ACCURACY = Measure(name="accuracy", title="accuracy", of=share_correct, share=True, by_example=True)
TOKEN_ACCURACY = Measure(name="accuracy", title="next-token accuracy", of=share_correct, share=True)
PERPLEXITY = Measure(
    name="perplexity",
    title="perplexity",
    unit=" a token",
    of=lambda sums: math.exp(min(mean_loss(sums), 700.0)),  # what floats can hold
    lower_is_better=True,
)
WORD_ACCURACY = Measure(name="accuracy", title="accuracy by word", of=share_correct, share=True)
ANSWER_PERPLEXITY = replace(PERPLEXITY, title="perplexity of the answers")
ANSWER_TOKEN_ACCURACY = replace(TOKEN_ACCURACY, title="next-token accuracy in the answers")
PREFERENCE = Measure(
    name="accuracy", title="preference accuracy", of=share_correct, share=True, by_example=True
)
REWARD_MARGIN = Measure(
    name="margin", title="reward margin", unit=", nats", of=lambda sums: sums["margins"] / sums["counted"]
)
