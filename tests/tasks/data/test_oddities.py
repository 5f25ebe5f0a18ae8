"""What is odd about data is said, and what is not odd is not."""

from __future__ import annotations

import pytest

from tasks.data.oddities import find_oddities
from tasks.data.rows import Rows

LABELS = ("no", "yes")


def labelled(*labels: str | None) -> Rows:
    return Rows(contents=tuple(map(str, range(len(labels)))), labels=labels)


@pytest.mark.parametrize(
    "rows",
    [
        labelled("no", "yes", None, "never"),
        labelled(*["no"] * 8, "yes", "yes"),
        Rows(contents=("a", "b", None)),
        Rows(contents=("a",)),
    ],
)
def test_nothing_is_said_of_plain_data(rows: Rows) -> None:
    assert find_oddities(rows, labels=LABELS) == ()


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (Rows(contents=("a", "a", None)), (), "all 2 rows that can be used hold the same"),
        (
            labelled(*["no"] * 159, "yes"),
            LABELS,
            "159 of 160 rows have the label 'no': always answering that is right in 99.4 %, so look at the "
            "scores by label",
        ),
        (
            labelled(*map(str, range(30))),
            tuple(map(str, range(30))),
            "there are 30 labels in 30 rows: is that the column of labels?",
        ),
        (labelled("no", "yes"), (*LABELS, "maybe"), "no row has the label 'maybe'"),
        (
            labelled("no", "yes", "yes ", "Yes"),
            LABELS,
            "1 row has the label 'Yes', which is not declared; 'yes' is, and differs in spaces, capitals "
            "or .0 alone",
        ),
        (
            labelled("1.0", "0", "1"),
            ("0", "1"),
            "1 row has the label '1.0', which is not declared; '1' is, and differs in spaces, capitals "
            "or .0 alone",
        ),
        (
            labelled("yes", "yes "),
            ("yes", "yes "),
            "the labels 'yes' and 'yes ' differ in spaces, capitals or .0 alone",
        ),
    ],
)
def test_what_is_odd_is_said(rows: Rows, labels: tuple[str, ...], said: str) -> None:
    assert said in find_oddities(rows, labels=labels)
