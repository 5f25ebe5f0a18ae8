"""Rows of one person are one group: at most k of them, whatever the file's order."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.row_groups import Group, digest_group, in_groups, read_groups
from tasks.data.rows import Rows

NAMES = ("ann", "bob", "ann", None, "ann", "bob")
ROWS = Rows(contents=("a", "b", "c", "d", "e", "f"), labels=("no", "yes", "no", "no", "yes", "no"))


def digest(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()


def source(path: Path, cells: list[str]) -> SourceKeys:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "person"], *([text, cell] for text, cell in enumerate(cells))])
    return SourceKeys(source=str(path))


def test_a_file_without_the_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.group"):
        read_groups(source(tmp_path / "a.csv", ["x"] * 6), "patient", ROWS)


def test_a_column_without_any_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row has a value there"):
        read_groups(source(tmp_path / "a.csv", ["", " "] * 3), "person", ROWS)


def test_a_column_of_another_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one value for each of 6 rows, got 2"):
        read_groups(source(tmp_path / "a.csv", ["x", "y"]), "person", ROWS)


def test_names_are_told_apart_without_the_spaces_around_them(tmp_path: Path) -> None:
    found = read_groups(source(tmp_path / "a.csv", ["x", " x", "", "y", "x ", " "]), "person", ROWS)
    assert found == ("x", "x", None, "y", "x", None)


def test_each_group_has_its_own_rows_with_their_labels() -> None:
    found = in_groups(ROWS, NAMES, most=3, digest=digest)
    by_name = {group.name: set(zip(group.contents, group.labels, strict=True)) for group in found.contents}
    assert by_name == {"ann": {("a", "no"), ("c", "no"), ("e", "yes")}, "bob": {("b", "yes"), ("f", "no")}}
    assert [set(entry) for entry in found.labels or ()] == [
        {label for _, label in by_name[group.name]} for group in found.contents
    ]


def test_rows_of_nobody_and_beyond_the_most_are_left_out_and_counted() -> None:
    found = in_groups(ROWS, NAMES, most=2, digest=digest)
    assert sorted(len(group.contents) for group in found.contents) == [2, 2]
    assert found.remarks == (
        "1 rows are of no group, and are left out",
        "1 rows are beyond data.rows_per_group=2 of their groups, and are left out",
    )


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_order_of_rows_decides_nothing(most: int) -> None:
    expected = in_groups(ROWS, NAMES, most=most, digest=digest).contents
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(6)
        shuffled = ROWS.take(map(int, order))
        found = in_groups(shuffled, [NAMES[place] for place in order], most=most, digest=digest)
        assert found.contents == expected


def test_which_rows_count_follows_from_the_group_alone() -> None:
    """What another group holds, or that there is one, moves no row of this one."""
    whole = in_groups(ROWS, NAMES, most=2, digest=digest)
    alone = in_groups(ROWS, ["ann" if name == "ann" else None for name in NAMES], most=2, digest=digest)
    assert alone.contents == tuple(group for group in whole.contents if group.name == "ann")


def test_a_group_without_a_row_that_can_be_used_still_counts() -> None:
    rows = Rows(contents=("a", None, "c"), labels=("no", "no", None))
    found = in_groups(rows, ("ann", "bob", "eve"), most=2, digest=digest)
    assert set(found.contents) == {
        Group("ann", ("a",), ("no",)),
        Group("bob", (), ()),
        Group("eve", (), ()),
    }


def test_a_group_is_known_by_its_name_alone() -> None:
    assert digest_group("ann") != digest_group("bob")
    assert digest_group("ann") == hashlib.sha256(b'"ann"').digest()


def test_one_person_is_not_two_for_how_the_name_is_written(tmp_path: Path) -> None:
    names = ["Jose\u0301", "Jos\u00e9", "12", "12.0", "012", "1.50"]
    found = read_groups(source(tmp_path / "a.csv", names), "person", ROWS)
    assert found == ("Jos\u00e9", "Jos\u00e9", "12", "12", "012", "1.50")
