"""Dealing data out to sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import DataError
from simulation.partition import Partition, partition
from tasks.data.rows import Rows
from tests import tiny

ROWS = tiny.rows()


TEXTS, LABELS, TOWNS = zip(*ROWS, strict=True)


def deal(
    folder: Path, table: Rows | None = None, *, groups: tuple[str, ...] = TOWNS, **changes: dict[str, Any]
) -> Partition:
    table = table or Rows(contents=TEXTS, labels=LABELS)
    return partition(tiny.job(folder, **changes), table, groups=groups)


def test_every_row_goes_to_one_place(tiny_folder: Path) -> None:
    for kind in ("iid", {"dirichlet": 0.5}, {"column": "town"}):
        parts = deal(tiny_folder, federation={"partition": kind})
        everything = np.concatenate([parts.held_out, *parts.sites.values()])
        assert sorted(everything) == list(range(len(ROWS))), kind


def test_the_seed_decides(tiny_folder: Path) -> None:
    first, again, other = (deal(tiny_folder, seeds={"data": seed}) for seed in (1, 1, 2))
    assert all(np.array_equal(first.sites[name], again.sites[name]) for name in first.sites)
    assert not np.array_equal(first.held_out, other.held_out)


def test_equal_texts_stay_on_one_side(tiny_folder: Path) -> None:
    texts = tuple(f"text {number % 40}" for number in range(400))
    labels = tuple("yes" if number % 2 else "no" for number in range(400))
    parts = deal(tiny_folder, Rows(contents=texts, labels=labels))
    held = {texts[row] for row in parts.held_out}
    trained = {texts[row] for rows in parts.sites.values() for row in rows}
    assert held
    assert held & trained == set()


def test_small_alpha_makes_sites_differ(tiny_folder: Path) -> None:
    def spread(alpha: float) -> float:
        parts = deal(
            tiny_folder, federation={"partition": {"dirichlet": alpha}, "sites": 2}, seeds={"data": 5}
        )
        shares = [np.mean([ROWS[row][1] == "yes" for row in rows]) for rows in parts.sites.values()]
        return float(np.ptp(shares))

    assert spread(0.05) > 0.5
    assert spread(1000.0) < 0.1


def test_sites_of_one_size_have_labels_of_their_own(tiny_folder: Path) -> None:
    """Small α makes them differ, large α has them alike, and nothing is left over or dealt twice."""

    def shares(alpha: float, sites: int = 4) -> list[float]:
        kind = {"dirichlet": alpha, "equal_sizes": True}
        parts = deal(tiny_folder, federation={"partition": kind, "sites": sites}, seeds={"data": 5})
        sizes = [len(rows) for rows in parts.sites.values()]
        assert max(sizes) - min(sizes) <= 1
        assert sorted(np.concatenate([parts.held_out, *parts.sites.values()])) == list(range(len(ROWS)))
        return [float(np.mean([ROWS[row][1] == "yes" for row in rows])) for rows in parts.sites.values()]

    assert np.ptp(shares(0.05)) > 0.5
    assert np.ptp(shares(1000.0)) < 0.2
    assert shares(1e-6, sites=50)  # a site whose labels have run out takes what there is


def test_a_column_names_the_sites(tiny_folder: Path) -> None:
    parts = deal(tiny_folder, federation={"partition": {"column": "town"}})
    assert sorted(parts.sites) == ["town-1", "town-2", "town-3"]
    assert all(ROWS[row][2] == name for name, rows in parts.sites.items() for row in rows)


def test_a_value_cannot_name_a_folder_elsewhere(tiny_folder: Path) -> None:
    groups = tuple("../../etc" if number % 2 else "/tmp" for number in range(len(ROWS)))  # noqa: S108
    parts = deal(tiny_folder, groups=groups, federation={"partition": {"column": "town"}})
    assert all("/" not in name and "." not in name for name in parts.sites)


def test_a_site_of_a_value_of_signs_alone_has_a_name(tiny_folder: Path) -> None:
    groups = tuple("a" if number % 2 else "?!" for number in range(len(ROWS)))
    parts = deal(tiny_folder, groups=groups, federation={"partition": {"column": "town"}})
    assert sorted(parts.sites) == ["_", "a"]


def test_two_values_for_one_name_are_refused(tiny_folder: Path) -> None:
    groups = tuple("a/b" if number % 2 else "a:b" for number in range(len(ROWS)))
    with pytest.raises(DataError, match="a_b"):
        deal(tiny_folder, groups=groups, federation={"partition": {"column": "town"}})


def test_examples_that_are_all_the_same_are_refused(tiny_folder: Path) -> None:
    rows = Rows(contents=("good day",) * 9, labels=("yes", "no", "no") * 3)
    with pytest.raises(DataError, match="all 9 examples are the same"):
        partition(tiny.job(tiny_folder), rows)


def test_an_empty_site_is_named(tiny_folder: Path) -> None:
    with pytest.raises(DataError, match="site-193"):
        deal(tiny_folder, federation={"sites": 200})


def test_limit_takes_a_part(tiny_folder: Path) -> None:
    parts = deal(tiny_folder, data={"limit": 50})
    assert len(parts.held_out) + sum(map(len, parts.sites.values())) == 50
