"""The equal error rate, as counted by hand and by every threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.equal_error import EQUAL_ERROR, equal_error_rate
from tasks.label_outcome import LabelOutcome, count_scores
from tasks.registry import find_task


def sums_of(odds: list[float], has: list[bool]) -> dict[str, float]:
    return count_scores(torch.tensor(odds, dtype=torch.float64)[:, None], torch.tensor(has)[:, None])


@pytest.mark.parametrize(
    ("odds", "has", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0], [False, False, True, True], 0.0),
        ([0.0, 1.0, 2.0, 3.0], [True, True, False, False], 1.0),
        ([0.0, 0.0, 0.0, 0.0], [True, False, True, False], 0.5),  # who guesses
        # Of four with the label one is under 2, and of four without it one is over 2.
        ([0.0, 0.5, 1.0, 4.0, 1.5, 3.0, 5.0, 6.0], [False] * 4 + [True] * 4, 0.25),
        # Unequal numbers: of two without it one is above all but one of ten with it.
        ([5.0, 0.0, *range(1, 4), *range(6, 13)], [False, False] + [True] * 10, 0.3),
        ([1.0, 2.0], [True, True], 0.5),  # nobody without it: nothing is known
    ],
)
def test_a_rate_is_as_counted_by_hand(odds: list[float], has: list[bool], expected: float) -> None:
    assert equal_error_rate(sums_of(odds, has)) == pytest.approx(expected)


def test_a_rate_lies_where_the_best_threshold_has_it_and_in_the_mean_over_labels() -> None:
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(0, 3, 3000))
    logits = torch.from_numpy(random.standard_normal((3000, 3))).float()
    logits[torch.arange(3000), labels] += 1.5
    rates = []
    for label in range(3):
        logs = logits.double().log_softmax(-1)[:, label]
        scores, has = logs - torch.log1p(-logs.exp()), labels == label
        worst = [
            max(float((scores[~has] >= at).double().mean()), float((scores[has] < at).double().mean()))
            for at in scores.sort().values
        ]
        rates.append(min(worst))
    found = EQUAL_ERROR.of(LabelOutcome.of(logits, labels).sums())
    assert 0.1 < found < 0.3
    assert found == pytest.approx(sum(rates) / 3, abs=0.005)  # scores are counted in steps


def test_sounds_are_judged_by_it_beside_accuracy() -> None:
    names = [measure.name for measure in find_task("audio-classification").measures]
    assert names[0] == "accuracy"
    assert "equal_error" in names
