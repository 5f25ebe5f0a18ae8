"""Where the SuperLink listens, who may connect to it, and who may not any more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from privacy.errors import RunError, UserError
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.flower_cli import FlowerCli, FlowerNode, read_address, write_connection
from server.service.nodes import NodeList, read_nodes
from server.service.server import Service, is_running, lock, serving_proxy
from server.service.superlink import (
    hidden_endpoint,
    is_loopback,
    join_address,
    open_endpoint,
    superlink_program,
    wait_until,
)
from tests.server.coordinators import change_sites, make_coordinator, make_site, revoke


class Flower(FlowerCli):
    """What Flower does with nodes: a number for each key, and no key twice, not even one taken back."""

    def __init__(self, *, first: int = 100) -> None:
        self._first = first
        self.keys: dict[str, int] = {}
        self.gone: set[int] = set()
        self.calls: list[str] = []

    def nodes(self) -> list[FlowerNode]:
        return [
            FlowerNode(
                id=number,
                status="unregistered" if number in self.gone else "registered",
                online_since=None,
                offline_since=None,
            )
            for number in self.keys.values()
        ]

    def register(self, public_key: Path, *, name: str) -> int | None:
        self.calls.append(f"register {name}")
        key = public_key.read_text()
        if key in self.keys:
            return None
        self.keys[key] = self._first + len(self.keys)
        return self.keys[key]

    def unregister(self, node: int) -> None:
        self.calls.append(f"unregister {node}")
        self.gone.add(node)


class Bench:
    """A federation, Flower as above, and what was said."""

    def __init__(self, folder: CoordinatorFolder) -> None:
        self.folder, self.flower, self.said = folder, Flower(), list[str]()
        folder.flower_home.mkdir()

    def apply(self) -> list[str]:
        self.flower.calls.clear()
        return NodeList(self.folder, self.flower, say=self.said.append).apply()

    def alive(self) -> dict[str, int]:
        nodes = read_nodes(self.folder.flower_home)
        return {node.site: node.id for node in nodes if node.id not in self.flower.gone}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(make_coordinator(tmp_path, "north", "south"))


def test_every_site_is_registered_once(bench: Bench) -> None:
    assert bench.apply() == []
    assert bench.flower.calls == ["register north", "register south"]
    assert bench.alive() == {"north": 100, "south": 101}
    assert bench.apply() == []
    assert bench.flower.calls == []


def test_a_revoked_site_is_out_and_never_registered(bench: Bench) -> None:
    revoke(bench.folder, "south")
    assert bench.apply() == []
    assert bench.flower.calls == ["register north"]
    revoke(bench.folder, "north")
    assert bench.apply() == []
    assert bench.flower.calls == ["unregister 100"]
    assert bench.alive() == {}
    assert bench.apply() == []
    assert bench.flower.calls == []


def test_whoever_is_out_goes_before_anyone_comes(bench: Bench) -> None:
    bench.apply()
    revoke(bench.folder, "north")
    change_sites(bench.folder, east=make_site(bench.folder, "east"))
    bench.apply()
    assert bench.flower.calls == ["unregister 100", "register east"]


def test_a_site_with_a_new_key_loses_the_old_one(bench: Bench) -> None:
    bench.apply()
    change_sites(bench.folder, north=make_site(bench.folder, "north"))
    assert bench.apply() == []
    assert bench.flower.calls == ["unregister 100", "register north"]
    assert bench.alive() == {"north": 102, "south": 101}


def test_a_revoked_key_does_not_come_back(bench: Bench) -> None:
    bench.apply()
    before = bench.folder.federation.sites["north"]
    revoke(bench.folder, "north")
    bench.apply()
    change_sites(bench.folder, north=before)
    (problem,) = bench.apply()
    assert "site north: its node's key was revoked, and Flower takes no key twice" in problem
    assert bench.alive() == {"south": 101}


def test_a_key_file_that_says_otherwise_is_not_registered(bench: Bench) -> None:
    folder = bench.folder
    folder.node_key("north").write_text(folder.node_key("south").read_text())
    (problem,) = bench.apply()
    assert "does not hold the node's key of federation.json" in problem
    assert bench.alive() == {"south": 100}


def test_a_kill_between_registering_and_writing_it_down_loses_nothing(bench: Bench) -> None:
    bench.flower.register(bench.folder.node_key("north"), name="north")
    assert bench.apply() == []
    assert bench.alive() == {"north": 100, "south": 101}
    assert bench.flower.gone == set()


def test_a_node_that_is_no_sites_is_taken_off(bench: Bench) -> None:
    bench.apply()
    bench.flower.keys["ecdsa-sha2-nistp384 AAAA"] = 7
    bench.apply()
    assert bench.flower.calls == ["unregister 7"]
    # Nor is it taken for a site whose key was revoked.
    bench.flower.keys["ecdsa-sha2-nistp384 BBBB"] = 8
    before = bench.folder.federation.sites["north"]
    revoke(bench.folder, "north")
    bench.apply()
    bench.flower.keys["ecdsa-sha2-nistp384 CCCC"] = 9
    change_sites(bench.folder, north=before)
    assert len(bench.apply()) == 1
    assert bench.flower.calls == ["register north", "unregister 9"]


def test_a_database_that_is_gone_begins_anew(bench: Bench) -> None:
    bench.apply()
    bench.flower = Flower(first=500)
    assert bench.apply() == []
    assert bench.flower.calls == ["register north", "register south"]
    assert read_nodes(bench.folder.flower_home)[-1].id == 501


def test_nodes_that_cannot_be_read_stop_everything(bench: Bench) -> None:
    (bench.folder.flower_home / "nodes.json").write_text('[{"site": "north"}]')
    with pytest.raises(RunError, match=r"nodes\.json cannot be read"):
        bench.apply()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["::", "10.0.0.1", "localhost.example.org", "example.org"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_addresses() -> None:
    assert join_address("127.0.0.1", 1) == "127.0.0.1:1"
    assert join_address("::1", 1) == "[::1]:1"


def test_the_superlink_never_listens_beyond_loopback(tmp_path: Path) -> None:
    folder = make_coordinator(tmp_path, host="fl.example.org", port=8443)
    with pytest.raises(UserError, match="expected an address on loopback"):
        open_endpoint(folder)
    endpoint = hidden_endpoint(folder, movable=True)
    assert endpoint.host == "127.0.0.1"
    command = superlink_program(folder, endpoint).command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--enable-supernode-auth" in command
    assert "--insecure" not in command


def test_the_hidden_port_stays_and_is_never_the_open_one(tmp_path: Path) -> None:
    folder = make_coordinator(tmp_path)
    first = hidden_endpoint(folder, movable=True)
    write_connection(folder.flower_home, address=first.address, authority=first.authority)
    assert read_address(folder.flower_home) == first.address
    assert hidden_endpoint(folder, movable=True) == first
    assert hidden_endpoint(folder, movable=False) == first
    own = folder.federation.address
    write_connection(folder.flower_home, address=own, authority=folder.authority_certificate)
    assert hidden_endpoint(folder, movable=False).address != own


def test_one_server_a_folder(tmp_path: Path) -> None:
    folder = make_coordinator(tmp_path)
    assert not is_running(folder)
    assert not folder.flower_home.exists()
    assert serving_proxy(folder) is None
    with lock(folder, note="embedded"):
        assert is_running(folder)
        assert serving_proxy(folder) == "embedded"
        with pytest.raises(RunError, match="a server runs on"), lock(folder):
            pass
    assert not is_running(folder)
    assert serving_proxy(folder) is None  # whatever stands in the file that the last one left
    with lock(folder, note="none"):
        assert serving_proxy(folder) == "none"


@pytest.mark.parametrize(
    ("proxy", "user", "warned"), [("embedded", 0, 1), ("embedded", 7, 0), ("nginx", 0, 0)]
)
def test_an_embedded_proxy_that_would_be_root_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, user: int, warned: int
) -> None:
    folder, said = make_coordinator(tmp_path), list[str]()
    monkeypatch.setattr("os.geteuid", lambda: user)
    Service(folder, proxy=proxy, say=said.append)._introduce(hidden_endpoint(folder, movable=True))
    assert sum("the embedded proxy is root" in line for line in said) == warned


def test_waiting_ends_with_what_it_waits_for() -> None:
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), alive=lambda: True, pause=lambda _: None)
    assert not wait_until(lambda: False, alive=lambda: False, pause=lambda _: None)
    assert not wait_until(lambda: False, alive=lambda: True, pause=lambda _: None, patience=1)


def test_nobody_answers_where_nobody_listens(tmp_path: Path) -> None:
    assert not hidden_endpoint(make_coordinator(tmp_path), movable=True).answers()


def test_nodes_are_written_as_people_can_read_them(bench: Bench) -> None:
    bench.apply()
    (first, _) = json.loads((bench.folder.flower_home / "nodes.json").read_text())
    assert first == {"site": "north", "id": 100, "key": bench.folder.federation.sites["north"].node}
