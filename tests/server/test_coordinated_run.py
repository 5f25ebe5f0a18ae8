"""Whose key signs for a run, and whose answers count, follows from the coordinator's folder alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from privacy.errors import RunError, UserError
from server.coordinated_run import Members
from server.coordinator_app import main
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.provisioning.provision import provision
from server.service.superlink import SERVED, Endpoint, superlink_program
from tests.server.federations import federation_file


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorFolder:
    out = tmp_path / "federation"
    provision(federation_file("north", "south", "west"), out, now=datetime.now(UTC))
    return CoordinatorFolder.open(out / "coordinator")


def test_a_process_that_no_server_started_coordinates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERVED, raising=False)
    context: Any = SimpleNamespace(run_config={"run": "tweets-1"})
    grid: Any = None
    with pytest.raises(RunError, match="not started by"):
        main(grid, context)


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "/else", "a/b", "a\0b"])
def test_a_run_is_named_and_not_placed(coordinator: CoordinatorFolder, name: str) -> None:
    """Whoever reaches Flower's Control API names the run: a path could be a folder of their own."""
    with pytest.raises(UserError, match="expected the name of a run"):
        coordinator.run(name)
    assert coordinator.run("tweets-1") == coordinator.runs / "tweets-1"


def test_the_server_says_which_folder_is_served(coordinator: CoordinatorFolder) -> None:
    endpoint = Endpoint(
        host="127.0.0.1",
        port=1,
        certificate=coordinator.server_certificate,
        key=coordinator.server_key,
        authority=coordinator.authority_certificate,
    )
    given = superlink_program(coordinator, endpoint).environment[SERVED]
    assert given == str(coordinator.path.resolve())


def test_a_site_that_is_revoked_is_no_member_from_then_on(coordinator: CoordinatorFolder) -> None:
    members = Members(coordinator)
    before = sorted(members)
    federation = coordinator.federation
    name = before[0]
    gone = federation.sites[name].model_copy(update={"revoked": True})
    coordinator.write_federation(federation.model_copy(update={"sites": {**federation.sites, name: gone}}))
    assert sorted(members) == before[1:]
    assert members.get(name) is None
    assert len(members) == len(before) - 1
