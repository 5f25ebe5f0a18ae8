"""A coordinator's metrics, as they are read from its folder."""

from __future__ import annotations

import json
import math
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from privacy.errors import RunError
from protocol.processes.metrics_page import metrics_page
from runs.run_folder import RunFolder
from runs.run_log import logged
from runs.run_state import RunState, coordinating, write_state
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.server_telemetry import _STATES, FolderMetrics
from tests.server.coordinators import make_coordinator, revoke
from tests.server.runs import make_record, make_run


@pytest.fixture
def folder(tmp_path: Path) -> CoordinatorFolder:
    return make_coordinator(tmp_path, "north", "south", "west")


def run_in(folder: CoordinatorFolder, name: str, state: str | None, **options: object) -> RunFolder:
    run = make_run(folder.runs / name, **options)
    if state is not None:
        write_state(run, RunState(state=state))
    return run


@pytest.fixture
def going_on(folder: CoordinatorFolder) -> Iterator[RunFolder]:
    record = make_record(2, absent=["west"], epsilon={"north": 3.0, "south": None, "west": 1.5})
    run = run_in(folder, "spring", "running", records=[make_record(1), record])
    with coordinating(run):
        yield run


def value(folder: CoordinatorFolder, name: str, **labels: str) -> float | None:
    return FolderMetrics(folder).registry().get_sample_value(f"confide_coordinator_{name}", labels)


def runs(folder: CoordinatorFolder) -> dict[str, float]:
    registry = FolderMetrics(folder).registry()
    family = next(found for found in registry.collect() if found.name == "confide_coordinator_runs")
    return {sample.labels["state"]: sample.value for sample in family.samples}


# What does not get in its way.


def test_what_cannot_be_read_hides_nothing(folder: CoordinatorFolder, going_on: RunFolder) -> None:
    (folder.runs / "broken").mkdir()
    torn = run_in(folder, "torn", "running")
    (torn.path / "rounds.jsonl").write_text("{}\n")
    mad = run_in(folder, "mad", None)
    (mad.path / "state.json").write_text("[")
    with coordinating(torn):
        found = runs(folder)
        assert value(folder, "round", run="torn") is None
    assert (found["unreadable"], found["running"]) == (3, 1)
    assert value(folder, "round", run="spring") == 2


def test_without_certificates_or_a_federation_the_rest_is_told(folder: CoordinatorFolder) -> None:
    folder.server_certificate.unlink()
    folder.federation_path.write_text("[]")
    assert value(folder, "certificate_expiry_timestamp_seconds", file="server.crt") is None
    assert value(folder, "certificate_expiry_timestamp_seconds", file="ca.crt") > 0
    assert value(folder, "sites") is None
    assert runs(folder)["running"] == 0


def test_a_folder_without_runs_has_none(folder: CoordinatorFolder) -> None:
    assert set(runs(folder)) == set(_STATES)
    assert not any(runs(folder).values())
    assert not folder.runs.exists()


# What it tells.


def test_all_states_are_there() -> None:
    assert set(get_args(get_type_hints(RunState)["state"])) < set(_STATES)


def test_runs_are_counted_by_state(folder: CoordinatorFolder, going_on: RunFolder) -> None:
    states = {"a": "finished", "b": "failed", "c": "finished", "d": "running", "e": None}
    for name, state in states.items():
        run_in(folder, name, state)
    (folder.runs / ".f.partial-1").mkdir()
    found = {state: count for state, count in runs(folder).items() if count}
    assert found == {"finished": 2, "failed": 1, "interrupted": 1, "running": 1, "unknown": 1}


def test_a_run_that_goes_on_is_told_in_full(folder: CoordinatorFolder, going_on: RunFolder) -> None:
    run_in(folder, "old", "finished")
    assert value(folder, "round", run="spring") == 2
    assert value(folder, "rounds", run="spring") == 2
    assert value(folder, "last_round_seconds", run="spring") == 40.0
    assert value(folder, "last_round_training_seconds", run="spring") == 30.0
    assert value(folder, "bytes", run="spring", direction="up") == 2 * 12_300
    assert value(folder, "bytes", run="spring", direction="down") == 2 * 45_600
    assert value(folder, "absent_sites", run="spring") == 1
    assert value(folder, "epsilon", run="spring", site="north") == 3.0
    assert value(folder, "epsilon", run="spring", site="south") == math.inf
    changed = (going_on.path / "rounds.jsonl").stat().st_mtime
    assert value(folder, "last_round_timestamp_seconds", run="spring") == changed
    named = {
        sample.labels["run"]
        for family in FolderMetrics(folder).registry().collect()
        for sample in family.samples
        if "run" in sample.labels
    }
    assert named == {"spring"}


def test_a_run_before_its_first_round(folder: CoordinatorFolder) -> None:
    run = run_in(folder, "new", "running", records=[])
    with coordinating(run):
        assert value(folder, "round", run="new") == 0
        assert value(folder, "last_round_seconds", run="new") is None
        assert value(folder, "last_round_timestamp_seconds", run="new") > 0


def test_sites_and_certificates(folder: CoordinatorFolder) -> None:
    revoke(folder, "west")
    assert value(folder, "sites") == 2
    until = value(folder, "certificate_expiry_timestamp_seconds", file="server.crt")
    assert until == folder.server_until().timestamp()


def test_the_page_is_read_anew_each_time(folder: CoordinatorFolder) -> None:
    with metrics_page("127.0.0.1:0", FolderMetrics(folder).registry()) as address:

        def read() -> str:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        assert 'confide_coordinator_runs{state="finished"} 0.0' in read()
        run_in(folder, "a", "finished")
        assert 'confide_coordinator_runs{state="finished"} 1.0' in read()


# What is logged of a run.


def test_a_runs_log_is_there_for_people_and_for_machines(folder: CoordinatorFolder) -> None:
    run = run_in(folder, "spring", None)
    with pytest.raises(RunError), logged(run):
        raise RunError("too few\n2026-01-01 INFO confide: all is well")
    plain = (run.path / "run.log").read_text().splitlines()
    assert not any(line.startswith("2026-01-01 INFO confide: all") for line in plain)
    line = json.loads((run.path / "run.jsonl").read_text())
    assert (line["run"], line["site"], line["message"]) == ("spring", "coordinator", "the run stopped")
    assert line["error"][0].startswith("RunError: too few")
