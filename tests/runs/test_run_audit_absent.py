"""The audit of a run in which sites were absent: south in round 2, west until it joined in the last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from runs.metrics import Metrics, SiteMetrics
from runs.report.report import render_report
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from tests.server.evidence import edit_json, found
from tests.server.scripted import SITES, ScriptedPost, go, make_folder, run_job


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_folder(tmp_path_factory.mktemp("made") / "run", run_job(metrics=0.5), cohort=4)
    away: dict[Any, Any] = {("west", "join", number): None for number in (1, 2)}
    away |= {("south", "train", 2): None, ("north", "evaluate", 3): None}
    go(folder, ScriptedPost(folder, away, (*SITES, "west")))
    return folder


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(made.path, tmp_path / "run", symlinks=True)
    return RunFolder.open(tmp_path / "run")


def edit_record(run: RunFolder, number: int, change: Callable[[dict[str, Any]], object]) -> None:
    path = run.path / "rounds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines[number - 1])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_absences_pass(run: RunFolder) -> None:
    audit = audit_run(run)
    assert [(site.site, site.rounds, site.taken) for site in audit.sites] == [
        ("east", 3, 3),
        ("north", 3, 3),
        ("south", 2, 2),
    ]
    assert audit.metrics == 0.5
    # west joined with the last round's answers, and never trained.
    assert "west" in run.public_keys
    assert [record.absent for record in run.records()] == [[], ["south"], ["west"]]


def test_an_absent_site_told_to_be_there(run: RunFolder) -> None:
    edit_record(run, 2, lambda record: record["absent"].remove("south"))
    assert found(run) == "round 2: expected one receipt from each site; it is otherwise for south"


def test_a_site_told_to_be_absent(run: RunFolder) -> None:
    edit_record(run, 3, lambda record: record["absent"].append("south"))
    assert found(run) == "round 3: south is absent, and its epsilon is not that of its last receipt"


def test_a_site_told_to_be_absent_at_the_old_epsilon(run: RunFolder) -> None:
    def change(record: dict[str, Any]) -> None:
        record["absent"].append("south")
        record["epsilon"]["south"] = run.records()[0].epsilon["south"]

    edit_record(run, 3, change)
    assert found(run) == "round 3: expected one receipt from each site; it is otherwise for south"


def test_a_receipt_of_a_site_that_was_there_is_gone(run: RunFolder) -> None:
    edit_json(run.receipts_path(2), lambda table: table.pop("north"))
    assert found(run) == "round 2: expected one receipt from each site; it is otherwise for north"


def test_a_receipt_of_a_site_that_was_absent(run: RunFolder) -> None:
    run.save_receipts(2, run.receipts(2) | {"south": run.receipts(1)["south"]})
    assert found(run) == "round 2: expected one receipt from each site; it is otherwise for south"


@pytest.mark.parametrize("claimed", [0.0, None, 2.9, "1"])
def test_another_epsilon_of_an_absent_site(run: RunFolder, claimed: object) -> None:
    edit_record(run, 2, lambda record: record["epsilon"].update(south=claimed))
    assert found(run) == "round 2: south is absent, and its epsilon is not that of its last receipt"


def test_a_site_that_spent_is_not_told_of(run: RunFolder) -> None:
    """It is no less spent for being left out."""
    edit_record(run, 2, lambda record: record["epsilon"].pop("south"))
    assert found(run) == "round 2: south is absent, and its epsilon is not that of its last receipt"


def test_a_site_that_spent_is_in_nothing_of_a_round(run: RunFolder) -> None:
    def change(record: dict[str, Any]) -> None:
        del record["epsilon"]["south"]
        record["absent"].clear()

    edit_record(run, 2, change)
    assert found(run) == "round 2: south is absent, and its epsilon is not that of its last receipt"


def test_an_epsilon_of_a_site_that_never_trained(run: RunFolder) -> None:
    edit_record(run, 3, lambda record: record["epsilon"].update(west=1.0))
    assert found(run) == "round 3: west is absent, and its epsilon is not that of its last receipt"


@pytest.mark.parametrize("key", ["absent", "epsilon"])
def test_a_site_that_never_joined(run: RunFolder, key: str) -> None:
    def change(record: dict[str, Any]) -> None:
        record["absent"].append("moon")
        if key == "epsilon":
            record["epsilon"]["moon"] = 1.0
            record["absent"].remove("moon")

    edit_record(run, 2, change)
    assert found(run) == "round 2: rounds.jsonl tells of other sites than joined"


def test_a_round_of_too_few(run: RunFolder) -> None:
    """Its record and receipts agree, and the manifest says otherwise."""

    def change(record: dict[str, Any]) -> None:
        record["absent"].append("north")
        record["epsilon"]["north"] = run.records()[0].epsilon["north"]

    edit_record(run, 2, change)
    edit_json(run.receipts_path(2), lambda table: table.pop("north"))
    assert found(run) == "round 2: expected updates from at least 2 sites, got 1"


@pytest.mark.parametrize("absent", [None, 3, "south", [3], [["south"]], {"south": 1}])
def test_absences_that_are_none(run: RunFolder, absent: object) -> None:
    edit_record(run, 2, lambda record: record.update(absent=absent))
    assert "cannot be read: expected the names of those absent" in found(run)


@pytest.mark.parametrize("joined", [1, 5])
def test_too_few_or_too_many_joined(run: RunFolder, joined: int) -> None:
    key = run.public_keys["east"].hex()
    names = [*run.public_keys, "x"][:joined]
    (run.path / "sites.json").write_text(json.dumps(dict.fromkeys(names, key)))
    assert found(run) == f"the manifest is for 4 sites, at least 2 in each round, and {joined} joined"


def tell_metrics(run: RunFolder, sites: Iterable[str]) -> None:
    """Metrics that add up, as if told by others."""
    told = Metrics.told(0.5, dict.fromkeys(sorted(sites), SiteMetrics(right=2**30, examples=2)))
    (run.path / "metrics.json").write_bytes(told.content)


def test_metrics_without_a_receipt(run: RunFolder) -> None:
    edit_json(run.receipts_path("metrics"), lambda table: table.pop("south"))
    assert found(run) == "metrics: expected one receipt from each site; it is otherwise for south"


def test_metrics_of_too_few(run: RunFolder) -> None:
    edit_json(run.receipts_path("metrics"), lambda table: table.pop("south"))
    tell_metrics(run, run.metrics.sites.keys() - {"south"})
    assert found(run) == "metrics: expected at least 2 sites, got 1"


def test_metrics_of_a_site_that_never_joined(run: RunFolder) -> None:
    tell_metrics(run, [*run.metrics.sites, "moon"])
    assert found(run).startswith("metrics: metrics.json is of another epsilon or of other sites")


def test_metrics_that_do_not_add_up(run: RunFolder) -> None:
    edit_json(run.path / "metrics.json", lambda table: table["sites"].pop("south"))
    assert "its sites do not add up to its total" in found(run)


def test_receipts_of_metrics_that_a_kill_left_alone(run: RunFolder) -> None:
    (run.path / "metrics.json").unlink()
    assert audit_run(run).metrics == 0.5
    edit_json(run.receipts_path("metrics"), lambda table: table.update(moon=table["east"]))
    assert found(run).startswith("metrics: ")
    run.receipts_path("metrics").write_text("{")
    assert "cannot be read" in found(run)


def test_the_report_says_how_many_were_in_each_round(run: RunFolder) -> None:
    page = render_report(run)
    assert '<th scope="col">Sites</th>' in page
    assert page.count("<td>3 of 4</td>") == 2
    assert page.count("<td>2 of 4</td>") == 1


def test_the_report_says_nothing_where_all_were_in_each_round(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run")
    go(folder, ScriptedPost(folder))
    assert "of 3</td>" not in render_report(folder)
