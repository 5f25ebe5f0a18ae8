"""The folder of a run of statistics, and the receipts that may be in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import ProtocolError, RunError
from privacy.ledger.receipt import SignedReceipt
from runs.earlier_receipts import earlier_receipts
from runs.open_folder import open_folder
from runs.receipts import check_statistics_receipt
from runs.run_folder import RunFolder
from runs.statistics_folder import StatisticsFolder
from tests.runs.counted_runs import SITES, counted_manifest, counted_receipt, make_counted
from tests.server.runs import make_run


def test_it_is_finished_when_its_counts_are_there_and_not_before(tmp_path: Path) -> None:
    folder = make_counted(tmp_path / "run", finished=False)
    assert not folder.finished
    with pytest.raises(RunError, match="have not counted yet"):
        folder.run()
    told = make_counted(tmp_path / "other").run().statistics
    assert told.examples.value == 400
    assert set(told.spent) == set(SITES)
    assert json.loads((tmp_path / "other" / "statistics.json").read_text()) == told.as_table()
    (tmp_path / "other" / "counts.json").write_text("[1")
    with pytest.raises(RunError, match="cannot be read"):
        make_again(tmp_path / "other").run()


def make_again(path: Path) -> StatisticsFolder:
    found = open_folder(path)
    assert isinstance(found, StatisticsFolder)
    return found


def test_each_kind_of_folder_is_opened_as_what_it_is(tmp_path: Path) -> None:
    make_run(tmp_path / "trained")
    make_counted(tmp_path / "counted")
    assert isinstance(open_folder(tmp_path / "trained"), RunFolder)
    assert isinstance(open_folder(tmp_path / "counted"), StatisticsFolder)
    with pytest.raises(RunError, match=r"has no manifest\.json"):
        open_folder(tmp_path)
    with pytest.raises(RunError, match="exists already"):
        make_counted(tmp_path / "counted")


def test_a_later_run_shows_sites_what_they_signed_for_statistics(tmp_path: Path) -> None:
    counted = make_counted(tmp_path / "counted")
    later = make_run(tmp_path / "later")
    assert earlier_receipts(later) == counted.receipts("statistics")
    assert all(isinstance(one, SignedReceipt) for one in earlier_receipts(later).values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": {"clipping_norm": 0.5}}, "its clipping norm is wrong: expected 1.0, got 0.5"),
        ({"plan": {"delta": 0.1}}, "its delta is wrong"),
        ({"plan": {"unit": "group"}}, "its unit is wrong"),
        ({"plan": {"steps": 2}}, "its number of planned steps is wrong: expected 1, got 2"),
        ({"taken": 2}, "its number of steps is wrong"),
        ({"budget": 9.0}, "its budget is wrong: expected 2.0, got 9.0"),
        ({"head": ""}, "its head is no SHA-256"),
        ({"epsilon": 2.1}, "expected epsilon=2 at most, and it claims epsilon=2.1"),
        ({"epsilon": None}, "and it claims epsilon=None"),
    ],
)
def test_a_receipt_is_of_what_was_asked(changes: dict[str, Any], words: str) -> None:
    manifest = counted_manifest("run")
    check_statistics_receipt(counted_receipt(manifest, "north"), manifest)
    with pytest.raises(ProtocolError, match=words):
        check_statistics_receipt(counted_receipt(manifest, "north", **changes), manifest)
