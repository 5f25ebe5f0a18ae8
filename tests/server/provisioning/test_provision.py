"""Provisioning: what each folder holds, and that doing it again changes nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.custody.peers import read_peers
from client.custody.site_file import LimitsSection, read_site_file
from privacy.errors import UserError
from protocol.messages.site_keys import read_site_keys
from server.provisioning.provision import provision
from tests.needs import needs
from tests.server.federations import NOW, check_whole, contents, federation_file, federation_of, states


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "federation"


def test_everything_is_made_and_fits_together(out: Path) -> None:
    assert states(out, federation_file()) == {"north": "made", "south": "made"}
    check_whole(out, {"north", "south"})


def test_a_narrow_umask_is_no_obstacle_and_a_wide_one_opens_nothing(out: Path) -> None:
    before = os.umask(0)
    try:
        provision(federation_file(), out, now=NOW)
    finally:
        os.umask(before)
    check_whole(out, {"north", "south"})


def private_parts(path: Path) -> set[bytes]:
    """The base64 lines of private keys below a folder: what a copy of one would hold."""
    lines = set()
    for file in path.rglob("*.key"):
        lines |= {
            line for line in file.read_bytes().splitlines() if b"-----" not in line and len(line) > 20
        }
    return lines


def test_a_kit_holds_the_sites_own_secrets_and_nobody_elses(out: Path) -> None:
    provision(federation_file("north", "south", "west"), out, now=NOW)
    places = [
        out / "ca",
        out / "coordinator",
        *(out / "kits" / name for name in ("north", "south", "west")),
    ]
    for place in places:
        own = private_parts(place)
        assert own
        foreign = set().union(*(private_parts(other) for other in places if other != place))
        # The first 16 bytes of an encoding name the kind of key and are alike; whole lines are not.
        held = b"\n".join(file.read_bytes() for file in place.rglob("*") if file.is_file())
        assert [line for line in foreign - own if line in held] == []
    assert all(key.read_bytes() != (out / "ca" / "ca.key").read_bytes() for key in out.glob("*/*/*.key"))


def test_no_two_private_keys_are_the_same(out: Path) -> None:
    provision(federation_file("north", "south", "west"), out, now=NOW)
    keys = [path.read_bytes() for path in out.rglob("*.key")]
    assert len(keys) == 3 * 4 + 3  # identity, agent, relay, node a site; authority, server, coordinator
    assert len(set(keys)) == len(keys)


def test_what_the_relays_user_may_have_is_all_that_is_in_its_folder(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    kit = out / "kits" / "north"
    assert {p.name for p in (kit / "relay").iterdir()} == {
        "ca.crt",
        "node.key",
        "relay.key",
        "relay.crt",
        "agent.crt",
    }
    assert {p.name for p in kit.iterdir()} == {
        "site.toml",
        "identity.key",
        "agent.key",
        "agent.crt",
        "README",
        "peers.toml",
        "relay",
    }


def test_node_keys_are_what_flower_reads(out: Path) -> None:
    """As flwr.supernode.cli loads the private and flwr.cli.supernode the public half."""
    provision(federation_file(), out, now=NOW)
    private = load_ssh_private_key((out / "kits/north/relay/node.key").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)


@needs("ssh-keygen")
def test_node_keys_are_what_ssh_keygen_reads(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    key = out / "kits" / "north" / "relay" / "node.key"
    command = ["ssh-keygen", "-y", "-f", str(key)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.stdout.split()[:2] == federation_of(out).sites["north"].node.split()


def test_the_site_file_is_one_that_the_site_reads(out: Path) -> None:
    data = {"text": 'a "b" \\', "source": "/srv/x.csv", "label": "l", "labels": ["#1", "2"]}
    entry: dict[str, Any] = {
        "name": "north",
        "data": {"odd name.x": data},
        "models": {'odd "name"': "/srv/m", "package:p/q": "package:p/q", "org/name": "hub:org/name"},
        "budget": {"epsilon": 1.0, "delta": 1e-6},
        "rules": {"approval": "automatic", "tasks": ["causal-lm"]},
    }
    provision(federation_file(site=[entry, {"name": "south"}]), out, now=NOW)
    north = read_site_file(out / "kits" / "north" / "site.toml")
    assert (north.site.name, north.site.coordinator) == ("north", "fl.example.org:8443")
    assert north.data["odd name.x"].model_dump(exclude_none=True) == data | {
        "encoding": "utf-8",
        "task": "sequence-classification",
        "gate": {},
    }
    assert north.models == entry["models"]
    assert (north.budget.epsilon, north.budget.epsilon_per_run) == (1.0, None)
    assert (north.rules.approval, north.rules.least_cohort) == ("automatic", 2)
    south = read_site_file(out / "kits" / "south" / "site.toml")
    assert south.rules.approval == "manual"
    assert south.models == {}
    assert (south.rules.secure_aggregation, south.rules.colluding_sites) == ("required", 0)
    assert south.rules.coordinator == federation_of(out).coordinator
    assert (south.rules.longest_round, south.limits) == (21600.0, LimitsSection())
    text = (out / "kits" / "south" / "site.toml").read_text()
    assert set(tomllib.loads(text)) == {"site", "agent", "relay", "models", "budget", "rules", "limits"}
    readme = (out / "kits" / "south" / "README").read_text()
    assert readme.count("\n") == 3
    assert "confide site start site.toml" in readme


def test_again_changes_no_byte(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    before = contents(out)
    assert states(out, federation_file()) == {"north": "here", "south": "here"}
    assert contents(out) == before


def test_another_site_changes_federation_json_and_adds_its_own(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    before = contents(out)
    assert states(out, federation_file("north", "south", "west"))["west"] == "made"
    after = contents(out)
    assert {name for name in before if after[name] != before[name]} == {
        "coordinator/federation.json",
        "peers.toml",
        "kits/north/peers.toml",
        "kits/south/peers.toml",
    }
    added = {name for name in set(after) - set(before) if not name.startswith("kits/west")}
    assert added == {"coordinator/nodes/west.pub"}
    check_whole(out, {"north", "south", "west"})


def test_a_site_is_added_where_neither_authority_nor_private_keys_are(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    shutil.rmtree(out / "ca")
    (out / "coordinator" / "identity.key").unlink()
    (out / "coordinator" / "server.key").unlink()
    assert states(out, federation_file("north", "south", "west"))["west"] == "made"
    assert not (out / "ca").exists()
    assert not list((out / "coordinator").glob("*.key"))


def test_a_kit_that_was_handed_over_is_not_made_again(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    shutil.rmtree(out / "kits" / "north")
    before = contents(out)
    assert states(out, federation_file()) == {"north": "handed over", "south": "here"}
    assert contents(out) == before


def test_each_kit_names_all_sites_also_those_whose_kits_are_made_after_it(out: Path) -> None:
    assert provision(federation_file("north", "south", "west"), out, now=NOW).peers_changed
    keys = {name: read_site_keys(out / "kits" / name).identity for name in ("north", "south", "west")}
    for folder in (out, *(out / "kits").iterdir()):
        assert read_peers(folder / "peers.toml") == keys
    assert not provision(federation_file("north", "south", "west"), out, now=NOW).peers_changed


def test_a_federation_without_peers_gets_them(out: Path) -> None:
    """As one that an earlier version provisioned: one kit still here, one handed over."""
    provision(federation_file(), out, now=NOW)
    for path in list(out.rglob("peers.toml")):
        path.unlink()
    shutil.rmtree(out / "kits" / "north")
    before = contents(out)
    found = provision(federation_file(), out, now=NOW)
    assert (found.changed, found.peers_changed) == (False, True)
    after = contents(out)
    assert {name for name in after if after[name] != before.get(name)} == {
        "peers.toml",
        "kits/south/peers.toml",
    }
    check_whole(out, {"north", "south"}, kits={"south"})


def test_the_coordinators_folder_is_not_made_again(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    shutil.rmtree(out / "coordinator")
    shutil.rmtree(out / "kits" / "north")
    shutil.rmtree(out / "kits" / "south")
    before = contents(out)
    with pytest.raises(UserError, match="bring the coordinator's folder back"):
        provision(federation_file(), out, now=NOW)
    assert contents(out) == before


def test_two_at_once_do_not_meet(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    held = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is at work in"):
            provision(federation_file(), out, now=NOW)
    finally:
        os.close(held)
