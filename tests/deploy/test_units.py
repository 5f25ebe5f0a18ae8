"""The systemd units: whose they are, what they may reach, and that systemd takes them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from client.custody.site_file import SiteFile
from client.relay.relay_program import relay_program
from protocol.processes.flower_process import flower_environment
from tests.deploy.containers import DEPLOY, Container, all_containers
from tests.deploy.users import AGENT, RELAY, SERVER, SOCKET_GROUP
from tests.needs import find, needs

SYSTEMD = DEPLOY / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
RELAY_OPTIONS = ["--superlink", "--root-certificates", "--auth-supernode-private-key", "--agent"]
ANALYZE = needs("systemd-analyze")


def settings(name: str) -> dict[str, list[str]]:
    """A unit's settings, each with all that it is set to."""
    text = (SYSTEMD / f"confide-{name}.service").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value.strip())
    return found


def environment(name: str) -> dict[str, str]:
    pairs = " ".join(settings(name)["Environment"]).split()
    return dict(pair.partition("=")[::2] for pair in pairs)


def relays() -> list[Container]:
    return [container for container in all_containers() if container.image == "confide-relay"]


@pytest.mark.parametrize("name", ["agent", "relay", "server"])
def test_units_are_locked(name: str) -> None:
    unit = settings(name)
    for key in (
        *("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectControlGroups"),
        *("ProtectKernelTunables", "ProtectKernelModules", "RestrictNamespaces", "RestrictSUIDSGID"),
    ):
        assert unit[key] == ["yes"], key
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    assert unit["SystemCallFilter"][0] == "@system-service"
    assert unit["UMask"] == ["0077"]
    assert unit["ProtectProc"] == ["invisible"]
    assert unit["LimitCORE"] == ["0"]


def test_the_agent_has_no_network_and_the_relay_nothing_of_the_sites() -> None:
    agent, relay = settings("agent"), settings("relay")

    assert agent["PrivateNetwork"] == ["yes"]
    assert agent["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert agent["StateDirectoryMode"] == ["0700"]
    assert "ReadWritePaths" not in relay
    assert "StateDirectory" not in relay
    assert f"-/var/lib/{agent['StateDirectory'][0]}" in relay["InaccessiblePaths"][0].split()
    assert int(agent["TimeoutStopSec"][0]) >= 300


def test_users_are_the_containers() -> None:
    lines = [
        line.split()
        for line in (SYSTEMD / "confide.sysusers.conf").read_text().splitlines()
        if line[0] != "#"
    ]
    users = {words[1]: words[2] for words in lines if words[0] == "u"}
    groups = {words[1]: words[2] for words in lines if words[0] == "g"}

    assert groups == {"confide-relay": str(SOCKET_GROUP)}
    assert users == {
        "confide-agent": str(AGENT),
        "confide-relay": f"{RELAY}:{SOCKET_GROUP}",
        "confide-server": str(SERVER),
    }
    assert [words[1:] for words in lines if words[0] == "m"] == [["confide-agent", "confide-relay"]]
    for name in ("agent", "relay", "server"):
        assert settings(name)["User"] == settings(name)["Group"] == [f"confide-{name}"]
    assert settings("agent")["SupplementaryGroups"] == ["confide-relay"]
    assert (
        "d /run/confide        0750 confide-agent confide-relay"
        in (SYSTEMD / "confide.tmpfiles.conf").read_text()
    )


def test_the_relays_command_is_the_one_that_confide_starts(tmp_path: Path) -> None:
    """The same module and options in all three places; only the places of keys and socket differ."""
    keys = tmp_path / "relay"
    keys.mkdir()
    for name in ("ca.crt", "node.key"):
        (keys / name).touch()

    def started(**agent: str) -> tuple[str, ...]:
        """The options that `confide site start` gives, as words with the places of the deployment."""
        site_file = SiteFile.model_validate(
            {
                "site": {"name": "north", "coordinator": "c:1"},
                "agent": agent,
                "budget": {"epsilon": 1.0, "delta": 0.1},
            }
        )
        words = relay_program(tmp_path, site_file).command[1:]
        assert words[:3] == ("-P", "-m", "client.relay.relay_process")
        return tuple(word.replace(str(keys), "/etc/confide/relay") for word in words[3:])

    on_socket = started(socket="/run/confide/agent.sock")
    with_tls = started(listen="confide-agent:7443")
    assert [word for word in on_socket if word.startswith("--")] == RELAY_OPTIONS
    unit = settings("relay")["ExecStart"][0].split()
    assert unit[1:4] == ["-P", "-m", "client.relay.relay_process"]
    found = [tuple(unit[4:]), *(container.words for container in relays())]
    places = re.compile(r"\$[({]CONFIDE_COORDINATOR[^)}]*[)}]")
    assert [tuple(places.sub("c:1", word) for word in words) for words in found] == [
        on_socket,
        on_socket,
        with_tls,
    ]


def test_the_relays_environment_is_the_one_that_confide_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    expected = flower_environment(tmp_path)
    names = [
        name for name in expected if name.startswith(("FLWR_", "RAY_USAGE")) or name.lower() == "no_proxy"
    ]
    names = [name for name in names if name not in {"FLWR_HOME", "FLWR_LOG_LEVEL"}]
    image = (DEPLOY / "docker" / "Dockerfile.relay").read_text()

    assert len(names) >= 7
    for name in names:
        assert environment("relay")[name] == expected[name]
        assert f"{name}={expected[name]}" in image
    home = environment("relay")["FLWR_HOME"]
    assert home == f"/run/{settings('relay')['RuntimeDirectory'][0]}"


@ANALYZE
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_finds_no_mistake(path: Path) -> None:
    command = [str(find("systemd-analyze")), "verify", str(path)]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stderr
    # What it starts is not installed here.
    assert [
        line for line in said.splitlines() if path.name in line and "is not executable" not in line
    ] == []


@ANALYZE
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_little_is_exposed(path: Path) -> None:
    """By systemd's own measure, from 0 to 10: 2 is among the best of a distribution's services."""
    command = [
        str(find("systemd-analyze")),
        "security",
        "--offline=true",
        "--threshold=20",
        str(path),
    ]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
