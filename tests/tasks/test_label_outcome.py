"""Measures of a classifier's probabilities, against what is worked out by hand and pair by pair."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tasks.label_outcome import AUC, BALANCED_ACCURACY, BRIER, CALIBRATION, MACRO_F1, LabelOutcome
from tasks.label_scores import LabelScore, scores_of


def sums_of(probabilities: list[list[float]], labels: list[int], *, parts: int = 1) -> Counter[str]:
    logits, found = torch.tensor(probabilities).log(), torch.tensor(labels)
    total: Counter[str] = Counter()
    for some_logits, some in zip(logits.chunk(parts), found.chunk(parts), strict=True):
        total.update(LabelOutcome.of(some_logits, some).sums())
    return total


def test_by_hand() -> None:
    probabilities = [[0.9, 0.1], [0.63, 0.37], [0.37, 0.63], [0.63, 0.37]]
    sums = sums_of(probabilities, [0, 0, 1, 1], parts=2)
    # Of four pairs of one with and one without the label, three are in order and one is tied.
    assert AUC.of(sums) == pytest.approx(3.5 / 4)
    assert BALANCED_ACCURACY.of(sums) == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert BRIER.of(sums) == pytest.approx(2 * (0.1**2 + 0.37**2 + 0.37**2 + 0.63**2) / 4)
    # Three say 0.63, of which two are right; one says 0.9 and is.
    assert CALIBRATION.of(sums) == pytest.approx((abs(3 * 0.63 - 2) + abs(0.9 - 1)) / 4)
    # Label 0 is answered three times, twice rightly, and label 1 once, rightly.
    assert MACRO_F1.of(sums) == pytest.approx((2 * 2 / (2 + 3) + 2 * 1 / (2 + 1)) / 2)
    assert scores_of(sums, ("a", "b")) == {
        "a": LabelScore(examples=2, answered=3, hits=2),
        "b": LabelScore(examples=2, answered=1, hits=1, mistakes={"a": 1}),
    }


def test_auc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.standard_normal(300), random.integers(0, 2, 300)
    labels[scores > 0.5] = 1
    logits = torch.tensor(np.stack([np.zeros(300), scores], axis=1))
    sums = LabelOutcome.of(logits, torch.tensor(labels)).sums()
    having, without = scores[labels == 1], scores[labels == 0]
    expected = (having[:, None] > without).mean()
    # Scores are put on steps of a hundredth: few of the pairs are that near to each other.
    assert AUC.of(sums) == pytest.approx(expected, abs=2e-3)


def test_of_several_labels_it_is_the_mean_and_one_that_nobody_has_is_left_out() -> None:
    sums = sums_of([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]], [0, 1, 1])
    assert AUC.of(sums) == pytest.approx(1.0)
    assert BALANCED_ACCURACY.of(sums) == pytest.approx((1 + 1 / 2) / 2)


def test_certain_answers_keep_their_order() -> None:
    logits = torch.tensor([[0.0, 15.0], [0.0, 16.0], [0.0, 400.0], [400.0, 0.0]])
    sums = LabelOutcome.of(logits, torch.tensor([0, 1, 1, 0])).sums()
    assert AUC.of(sums) == 1.0


def test_of_one_label_alone_nothing_is_told_apart() -> None:
    assert AUC.of(sums_of([[0.9, 0.1], [0.6, 0.4]], [0, 0])) == 0.5


def test_scores_are_the_odds_of_each_label_against_all_others() -> None:
    random = np.random.default_rng(1)
    logits = torch.tensor(3 * random.standard_normal((40, 4)))
    labels = torch.tensor(random.integers(0, 4, 40))
    expected: Counter[str] = Counter()
    for row, label in zip(logits, labels.tolist(), strict=True):
        for number in range(4):
            others = torch.cat([row[:number], row[number + 1 :]]).logsumexp(0)
            step = int(((row[number] - others) * 100).round())
            expected[f"score {number} {step} {int(label == number)}"] += 1
    sums = LabelOutcome.of(logits, labels).sums()
    assert {key: count for key, count in sums.items() if key.startswith("score")} == expected
