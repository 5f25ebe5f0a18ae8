"""Calibration, uncertainty and errors among the surest, against what is worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.certainty import Bin, Certainty, CertaintyTally, Probable, mean_of
from tasks.label_outcome import ACCURACY, BRIER, CALIBRATION, CLASSIFIER, LabelOutcome
from tasks.label_set_outcome import LabelSetOutcome
from tasks.mask_outcome import DICE, MaskOutcome


def tally(members: list[list[list[float]]], truth: list[int], *, parts: int = 1) -> Certainty:
    found = CertaintyTally()
    logs, known = torch.tensor(members, dtype=torch.float64).log(), torch.tensor(truth)
    for chosen in torch.arange(len(truth)).chunk(parts):
        found.add([one[chosen] for one in logs], known[chosen])
    return found.result(several=len(members) > 1)


def test_by_hand() -> None:
    shares = [[0.9, 0.1], [0.63, 0.37], [0.37, 0.63], [0.63, 0.37], [0.5, 0.5]]
    found = tally([shares], [0, 0, 1, 1, -1], parts=2)
    assert found.answers == 4
    assert found.bins == (
        Bin(answers=3, confidence=pytest.approx(0.63), right=pytest.approx(2 / 3)),
        Bin(answers=1, confidence=pytest.approx(0.9), right=1.0),
    )
    assert found.calibration_error == pytest.approx((abs(3 * 0.63 - 2) + abs(0.9 - 1)) / 4)
    assert found.brier == pytest.approx(2 * (0.1**2 + 0.37**2 + 0.37**2 + 0.63**2) / 4)
    # The surest is right; of three that are as sure, one is wrong, and counts by a third.
    assert dict(found.surest)[0.2] == 0
    assert dict(found.surest)[0.5] == pytest.approx((1 / 3) / 2)
    assert found.errors == 0.25
    # Of three pairs of a wrong and a right answer, one is in order and two are tied.
    assert found.tells_errors == pytest.approx((1 + 2 / 2) / 3)

    def entropy(p: float) -> float:
        return float(-p * np.log(p) - (1 - p) * np.log(1 - p))

    assert found.entropy == (
        pytest.approx((entropy(0.9) + 2 * entropy(0.63)) / 3),
        pytest.approx(entropy(0.63)),
    )
    assert found.disagreement is None


def test_several_models_are_one_whose_probabilities_are_their_mean() -> None:
    one, other = [[0.8, 0.2], [0.6, 0.4]], [[0.8, 0.2], [0.2, 0.8]]
    found = tally([one, other], [0, 0])
    mean = [[0.8, 0.2], [0.4, 0.6]]
    alone = tally([mean], [0, 0])
    assert [one.right for one in found.bins] == [one.right for one in alone.bins] == [0.0, 1.0]
    assert [one.confidence for one in found.bins] == pytest.approx([0.6, 0.8])
    assert found.entropy == pytest.approx(alone.entropy)
    assert found.disagreement is not None
    right, wrong = found.disagreement
    # Where all say the same there is nothing that they differ by.
    assert right == pytest.approx(0, abs=1e-12)
    whole, apart = (-sum(p * np.log(p) for p in each) for each in ((0.4, 0.6), (0.6, 0.4)))
    assert whole == pytest.approx(apart)
    assert wrong == pytest.approx(whole - (apart - 0.2 * np.log(0.2) - 0.8 * np.log(0.8)) / 2)


def test_answers_that_are_all_right_or_all_wrong_have_no_other_side() -> None:
    found = tally([[[0.9, 0.1]]], [0])
    assert (found.entropy[1], found.tells_errors, found.errors) == (None, None, 0.0)
    found = tally([[[0.9, 0.1]]], [1])
    assert (found.entropy[0], found.tells_errors, found.errors) == (None, None, 1.0)
    with pytest.raises(ValueError, match="an answer at least"):
        CertaintyTally().result(several=False)


def test_the_surest_keep_their_order_where_probabilities_are_ones() -> None:
    logs = torch.tensor([[0.0, 15.0], [0.0, 16.0], [0.0, 400.0]]).double().log_softmax(-1)
    found = CertaintyTally()
    found.add([logs], torch.tensor([0, 1, 1]))
    told = found.result(several=False)
    assert dict(told.surest)[0.6] == 0.0
    assert told.tells_errors == 1.0


def test_a_probability_of_zero_is_no_fault() -> None:
    found = tally([[[1.0, 0.0]], [[0.0, 1.0]]], [0])
    assert found.entropy[0] == pytest.approx(np.log(2))
    assert found.disagreement == (pytest.approx(np.log(2)), None)


def random_outcomes() -> dict[str, Probable]:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=random)
    labels = torch.randint(0, 3, (6,), generator=random)
    words = torch.tensor([0, -1, 2, 1, -1, -1])
    of_words = LabelOutcome(  # two texts of three words
        losses=torch.zeros(2),
        correct=torch.zeros(2, dtype=torch.long),
        counted=torch.tensor([2, 1]),
        logits=logits,
        labels=words,
    )
    masks = torch.randint(0, 3, (2, 4, 5), generator=random)
    return {
        "labels": LabelOutcome.of(logits, labels),
        "words": of_words,
        "sets": LabelSetOutcome.of(logits, (logits < 0.3).float()),
        "masks": MaskOutcome.of(torch.randn(2, 3, 4, 5, generator=random), masks),
    }


@pytest.mark.parametrize("kind", ["labels", "words", "sets", "masks"])
def test_an_outcome_under_its_own_probabilities_is_what_it_was(kind: str) -> None:
    outcome = random_outcomes()[kind]
    assert isinstance(outcome, Probable)
    logs, truth = outcome.told()
    assert logs.shape[:1] == truth.shape
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(len(logs)).double())
    again = outcome.given(logs)
    assert isinstance(again, Probable)
    torch.testing.assert_close(again.told()[0], logs)
    before, after = outcome.sums(), again.sums()  # type: ignore[attr-defined]
    del before["nats"], after["nats"]
    if kind == "words":  # which was made without counting what is right
        assert after.pop("correct") == sum(
            (row.argmax() == label).item() for row, label in zip(logs, truth, strict=True) if label >= 0
        )
        del before["correct"]
    assert after == pytest.approx(before)


def test_the_mean_of_probabilities_gives_measures_of_its_own() -> None:
    truth = torch.tensor([0, 1])
    members = [torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([[0.6, 0.4], [0.0, 1.0]])]
    outcome = LabelOutcome.of(members[-1].log(), truth)
    sums = outcome.given(mean_of([one.double().log() for one in members])).sums()
    # (0.75, 0.25) and (0.45, 0.55), of which both are right.
    assert ACCURACY.of(sums) == 1.0
    assert BRIER.of(sums) == pytest.approx((0.25**2 + 0.45**2) * 2 / 2)
    assert CALIBRATION.of(sums) == pytest.approx((0.25 + 0.45) / 2)
    assert all(measure.of(sums) == measure.of(sums) for measure in CLASSIFIER if measure.name != "loss")


def test_dice_of_the_mean_is_that_of_its_answers() -> None:
    masks = torch.tensor([[[0, 1, 1]]])
    sure, unsure = torch.tensor([0.05, 0.95, 0.95]), torch.tensor([0.6, 0.6, 0.2])
    members = [torch.stack([1 - one, one])[None, :, None].log() for one in (sure, unsure)]
    outcomes = [MaskOutcome.of(one, masks) for one in members]
    assert DICE.of(outcomes[1].sums()) == pytest.approx(0.5)
    together = outcomes[1].given(mean_of([one.told()[0] for one in outcomes]))
    assert DICE.of(together.sums()) == 1.0
