"""The coordinator's folder, as the processes that live in it read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import KeyFileError, UserError
from privacy.identity import Identity
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.provisioning.provision import provision
from tests.server.federations import NOW, federation_file


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("provisioned") / "federation"
    provision(federation_file(), out, now=NOW)
    return out


@pytest.fixture
def folder(provisioned: Path, tmp_path: Path) -> CoordinatorFolder:
    """Moved to where it belongs: it needs nothing beside it."""
    shutil.copytree(provisioned / "coordinator", tmp_path / "moved")
    return CoordinatorFolder.open(tmp_path / "moved")


def change(folder: CoordinatorFolder, edit: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(folder.federation_path.read_text())
    edit(table)
    folder.federation_path.write_text(json.dumps(table))


def test_the_public_facts(folder: CoordinatorFolder, provisioned: Path) -> None:
    federation = folder.federation
    assert (federation.name, federation.host, federation.port) == ("clinics", "fl.example.org", 8443)
    assert federation.coordinator_key == folder.identity().public
    for name, site in federation.sites.items():
        home = provisioned / "kits" / name
        assert site.identity_key == Identity.load(home / "identity.key").public
        assert folder.node_key(name).read_text() == f"{site.node} {name}\n"
    assert set(federation.active_sites) == {"north", "south"}


def test_a_revocation_is_seen_without_opening_anew(folder: CoordinatorFolder) -> None:
    change(folder, lambda table: table["sites"]["north"].update(revoked=True))
    assert set(folder.federation.active_sites) == {"south"}
    assert set(folder.federation.sites) == {"north", "south"}


def test_places_are_inside(folder: CoordinatorFolder) -> None:
    places = [folder.database, folder.flower_home, folder.proxy, folder.logs, folder.runs, folder.nodes]
    assert {place.parent for place in places} == {folder.path}
    assert [place.name for place in places] == ["superlink.db", "flower", "proxy", "logs", "runs", "nodes"]


def test_no_folder_says_which_command_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`confide provision` makes one, and --coordinator names it"):
        CoordinatorFolder.open(tmp_path)


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "server.key", "identity.key"])
def test_what_is_missing_is_named(folder: CoordinatorFolder, name: str) -> None:
    (folder.path / name).unlink()
    with pytest.raises(UserError, match=name):
        CoordinatorFolder.open(folder.path)


def test_a_key_that_sites_have_not_pinned_is_refused(folder: CoordinatorFolder) -> None:
    folder.identity_key.unlink()
    Identity.load_or_create(folder.identity_key)
    with pytest.raises(KeyFileError, match="which sites have pinned"):
        folder.identity()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda table: table.pop("coordinator"), "coordinator: missing"),
        (lambda table: table.update(more=1), "more: unknown key"),
        (lambda table: table.update(coordinator="ab"), "coordinator: expected"),
        (lambda table: table.update(address="x"), "address: expected host:port"),
        (lambda table: table["sites"]["north"].update(node="ssh-rsa x"), "sites.north.node"),
        (lambda table: table["sites"]["north"].update(revoked="no"), "sites.north.revoked"),
        (lambda table: table["sites"].update(north=table["sites"]["south"]), "have the same identity"),
        (lambda table: table["sites"].update({"../x": table["sites"].pop("north")}), "expected up to 40"),
        (lambda table: table["sites"].update(coordinator=table["sites"].pop("north")), "coordinator's own"),
    ],
)
def test_a_record_that_was_changed_wrongly_is_refused(
    folder: CoordinatorFolder, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    change(folder, edit)
    with pytest.raises(UserError) as caught:
        _ = folder.federation
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_record_that_is_none_is_refused(folder: CoordinatorFolder, content: bytes) -> None:
    folder.federation_path.write_bytes(content)
    with pytest.raises(UserError, match=r"federation\.json"):
        _ = folder.federation


def test_the_same_record_is_not_written_again(folder: CoordinatorFolder) -> None:
    change(folder, lambda _table: None)  # in another layout
    before = folder.federation_path.read_bytes()
    folder.write_federation(folder.federation)
    assert folder.federation_path.read_bytes() == before


def test_expiry_is_noticed(folder: CoordinatorFolder) -> None:
    assert folder.expiry_notices(NOW) == []
    assert folder.server_until() == NOW + timedelta(days=365)
    (soon,) = folder.expiry_notices(NOW + timedelta(days=340))
    assert "the server's certificate expires on 2027-03-01, in 25 days" in soon
    assert "--renew" in soon
    both = folder.expiry_notices(folder.authority_until())
    assert [" expired on " in notice for notice in both] == [True, True]
    folder.server_certificate.unlink()
    assert len(folder.expiry_notices(folder.authority_until())) == 1
