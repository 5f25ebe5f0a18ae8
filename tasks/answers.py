"""What a model says to a prompt, beside what it should have said, and how near the two are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A ``prompt`` as the model reads it, the ``reference``, and two answers of the model.

    ``greedy`` takes the likeliest token each time; ``sampled`` is drawn, by a seed.
    """

    prompt: str
    reference: str
    greedy: str
    sampled: str


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words, in [0, 1] (Lin 2004, section 3, β = 1).

    >>> rouge_l("the cat sat", "The cat lay, the cat sat.")
    0.6666666666666666
    """
    said, meant = _words(answer), _words(reference)
    common = _common(said, meant)
    return 2 * common / (len(said) + len(meant)) if common else 0.0


def exact_match(answer: str, reference: str) -> float:
    """1.0 if both have the same words in the same order, whatever their case and punctuation, else 0.0."""
    return float(_words(answer) == _words(reference))


def mean_over(answers: Sequence[Answer], score: Callable[[str, str], float]) -> float:
    """The mean of a score over greedy answers."""
    return sum(score(one.greedy, one.reference) for one in answers) / len(answers)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the table at a time."""
    before = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
        before = row
    return before[-1]
