"""Scores by label: a share of right answers hides labels that are rare, and never answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protocol.plain_text import quoted_some


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """One label's ``examples``, how often it was ``answered``, and how often that was right: ``hits``.

    ``mistakes`` says which other labels its examples were given, and how often.
    """

    examples: int
    answered: int
    hits: int
    mistakes: Mapping[str, int] = field(default_factory=dict)

    @property
    def recall(self) -> float:
        """The share of its examples that are answered so, 0 without any."""
        return self.hits / self.examples if self.examples else 0.0

    @property
    def precision(self) -> float:
        """The share of its answers that are right, 0 without any."""
        return self.hits / self.answered if self.answered else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of recall and precision (van Rijsbergen 1979)."""
        both = self.examples + self.answered
        return 2 * self.hits / both if both else 0.0


def scores_of(sums: Mapping[str, float], labels: Sequence[str]) -> dict[str, LabelScore]:
    """Scores by label of what a classifier's outcomes add up to; none for what has no such counts.

    ``sums`` has, by a label's number, ``examples 0``, ``answered 0`` and ``hits 0``, and perhaps
    ``mistakes 0 1``: how often an example of label 0 was given label 1.
    """
    counts: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    mistakes: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for key, count in sums.items():
        kind, *numbers = key.split()
        if kind == "mistakes":
            mistakes[int(numbers[0])][labels[int(numbers[1])]] = round(count)
        elif kind in {"examples", "answered", "hits"} and numbers:
            counts[kind][int(numbers[0])] = round(count)
    if not counts:
        return {}
    return {
        label: LabelScore(
            examples=counts["examples"][number],
            answered=counts["answered"][number],
            hits=counts["hits"][number],
            mistakes=mistakes[number],
        )
        for number, label in enumerate(labels)
    }


def macro_f1(scores: Mapping[str, LabelScore]) -> float:
    """The mean of F1 over the labels that have examples, each counting once; 0 without any."""
    known = [score.f1 for score in scores.values() if score.examples]
    return sum(known) / len(known) if known else 0.0


def macro_recall(scores: Mapping[str, LabelScore]) -> float:
    """The mean of recall over the labels that have examples: balanced accuracy (Brodersen et al. 2010)."""
    known = [score.recall for score in scores.values() if score.examples]
    return sum(known) / len(known) if known else 0.0


def what_scores_hide(scores: Mapping[str, LabelScore]) -> list[str]:
    """Sentences on what a share of right answers does not tell: labels never answered, and never tried."""
    never = [label for label, score in scores.items() if score.examples and not score.answered]
    untried = [label for label, score in scores.items() if not score.examples]
    said = []
    if never:
        said.append(f"the last adapter never answers {quoted_some(never)}, which held-out examples have")
    if untried:
        said.append(
            f"no held-out example has the label {quoted_some(untried)}: how it fares there is not known"
        )
    return said
