"""Measures of several labels an example, against what is worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.label_outcome import AUC, MACRO_F1, LabelOutcome
from tasks.label_scores import LabelScore, scores_of
from tasks.label_set_outcome import EXACT, LABEL_ACCURACY, MICRO_F1, LabelSetOutcome


def test_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0], [1.0, 0.5], [-3.0, -2.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    outcome = LabelSetOutcome.of(logits, targets)
    first = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert outcome.losses[0].item() == pytest.approx(first)
    assert outcome.correct.tolist() == [2, 1, 1]
    assert outcome.counted.tolist() == [2, 2, 2]
    sums = outcome.sums()
    assert scores_of(sums, ("a", "b")) == {
        "a": LabelScore(examples=1, answered=2, hits=1),
        "b": LabelScore(examples=2, answered=1, hits=1),
    }
    assert MACRO_F1.of(sums) == pytest.approx(2 / 3)
    assert MICRO_F1.of(sums) == pytest.approx(2 * 2 / 6)
    assert LABEL_ACCURACY.of(sums) == pytest.approx(4 / 6)
    assert EXACT.of(sums) == pytest.approx(1 / 3)
    # Of label a both pairs are in order; of b one of two.
    assert AUC.of(sums) == pytest.approx((1 + 1 / 2) / 2)


def test_words_without_a_label_do_not_count() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [5.0, 0.0]])
    losses = torch.tensor([0.5])
    outcome = LabelOutcome(
        losses=losses,
        correct=torch.tensor([1]),
        counted=torch.tensor([2]),
        logits=logits,
        labels=torch.tensor([1, 1, -1]),
    )
    sums = outcome.sums()
    assert sums["nats"] == 1.0
    assert scores_of(sums, ("a", "b"))["b"] == LabelScore(examples=2, answered=1, hits=1, mistakes={"a": 1})
