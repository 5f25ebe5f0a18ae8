"""The report's tables by label: scores, and what the examples of each label were given."""

from __future__ import annotations

from pathlib import Path

from runs.report.report import CONFUSION_SHOWN, confusion, render_report
from tasks.label_scores import LabelScore
from tests.server.runs import make_record, make_run

SCORES = {
    "bad": LabelScore(examples=5, answered=4, hits=3, mistakes={"good": 2}),
    "good": LabelScore(examples=7, answered=8, hits=6, mistakes={"bad": 1}),
}


def test_what_examples_were_given_is_a_table_of_labels_by_labels(tmp_path: Path) -> None:
    records = [make_record(1), make_record(2, by_label=SCORES)]
    assert confusion(records) == {"bad": [3, 2], "good": [1, 6]}
    page = " ".join(render_report(make_run(tmp_path / "run", records=records)).split())
    assert 'id="confusion"' in page
    assert '<th scope="row">bad</th><td>3</td><td>2</td>' in page


def test_there_is_none_for_many_labels_for_examples_with_several_and_for_rounds_without_scores() -> None:
    many = {str(number): SCORES["bad"] for number in range(CONFUSION_SHOWN + 1)}
    apart = {label: LabelScore(examples=5, answered=4, hits=3) for label in SCORES}
    for scores in (many, apart, {}):
        assert confusion([make_record(1, by_label=scores)]) == {}
    assert confusion([]) == {}


def test_rounds_of_an_older_version_are_shown_with_the_measures_that_it_knew(tmp_path: Path) -> None:
    page = render_report(make_run(tmp_path / "run"))  # its rounds know accuracy and loss alone
    assert "Held-out accuracy" in page
    assert "balanced accuracy" not in page
