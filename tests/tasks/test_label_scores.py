"""Scores by label, against counts by hand."""

from __future__ import annotations

from tasks.label_scores import LabelScore, macro_f1, macro_recall, scores_of, what_scores_hide

SCORES = {
    "no": LabelScore(examples=8, answered=9, hits=6),
    "yes": LabelScore(examples=2, answered=0, hits=0),
    "odd": LabelScore(examples=0, answered=1, hits=0),
}


def test_recall_precision_and_f1() -> None:
    no = SCORES["no"]
    assert (no.recall, no.precision) == (6 / 8, 6 / 9)
    # The harmonic mean of 3/4 and 2/3 is 12/17.
    assert abs(no.f1 - 12 / 17) < 1e-15
    for nothing in (SCORES["yes"], SCORES["odd"]):
        assert (nothing.recall, nothing.precision, nothing.f1) == (0, 0, 0)


def test_a_mean_over_labels_counts_those_that_have_examples() -> None:
    assert abs(macro_f1(SCORES) - 6 / 17) < 1e-15
    assert macro_f1({}) == 0
    assert macro_recall(SCORES) == 3 / 8


def test_sums_become_scores_by_the_labels_names() -> None:
    sums = {
        "nats": 3.0,
        "examples 0": 8.0,
        "answered 0": 9.0,
        "hits 0": 6.0,
        "mistakes 0 2": 1.0,
        "mistakes 0 1": 1.0,
        "examples 1": 2.0,
        "mistakes 1 0": 2.0,
        "answered 2": 1.0,
        "answered 1": 1.0,
    }
    scores = scores_of(sums, ("no", "yes", "odd"))
    assert scores["no"] == LabelScore(examples=8, answered=9, hits=6, mistakes={"odd": 1, "yes": 1})
    assert scores["yes"] == LabelScore(examples=2, answered=1, hits=0, mistakes={"no": 2})
    assert scores["odd"] == LabelScore(examples=0, answered=1, hits=0)
    assert scores_of({"nats": 3.0, "counted": 2.0}, ("no", "yes")) == {}


def test_labels_that_are_never_answered_or_never_tried_are_named() -> None:
    assert what_scores_hide(SCORES) == [
        "the last adapter never answers 'yes', which held-out examples have",
        "no held-out example has the label 'odd': how it fares there is not known",
    ]
    assert what_scores_hide({"no": SCORES["no"]}) == []
