"""What a site.toml may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.custody.policy import read_policy
from client.custody.site_file import find_home, find_site_file, read_site_file
from privacy.errors import PolicyFileError
from privacy.identity import Identity
from tests.client.agents import write_site

COORDINATOR = Identity.generate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text("text,label\n")
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"site": {"name": "coordinator"}}, "site.name: expected another .* own, got 'coordinator'"),
        ({"site": {"name": "Coordinator"}}, "site.name: expected another .* own, got 'Coordinator'"),
        ({"site": {"name": "no name"}}, r"site\.name"),
        ({"site": {"name": "north.example"}}, "site.name: expected up to 40 letters, digits, dashes"),
        ({"site": {"name": "n" * 41}}, "site.name: expected up to 40 letters, digits, dashes"),
        ({"data": {"red\x1b[31m": {"source": "x.csv"}}}, r"data: expected text without control.*'red\\x1b"),
        (
            {"data": {"x": {"source": "x.csv", "label": "l", "labels": ["a", "a\u202e"]}}},
            r"data\.x\.labels\.1: expected text without control",
        ),
        ({"site": {"coordinator": "https://localhost"}}, "expected host:port"),
        ({"site": {"coordinator": "localhost:99999"}}, "expected host:port"),
        ({"agent": {"socket": "a.sock", "listen": "localhost:1"}}, "either agent.socket or agent.listen"),
        ({"agent": {"group": "g", "listen": "localhost:1"}}, "expected none with agent.listen"),
        ({"agent": {"queue": 0}}, "agent.queue"),
        ({"agent": {"queue": 1000}}, "agent.queue"),
        ({"limits": {"planning_seconds": 0.0}}, "limits.planning_seconds"),
        ({"limits": {"planning_mib": 100}}, "limits.planning_mib"),
        ({"device": {"name": "gpu"}}, r'device\.name\.0: expected "auto", "cpu", "cuda", "mps", or a GPU'),
        ({"device": {"name": 1}}, r"device\.name"),
        *(
            ({"device": {"name": names}}, f"several by their names, each once, .* got {', '.join(names)}")
            for names in (["cuda:1", "cuda:1"], ["cuda", "cuda:0"], ["mps", "mps"], ["auto", "cpu"])
        ),
        ({"device": {"names": ["cpu"]}}, "device.names: unknown key"),
        ({"rules": {"longest_round": 0.5}}, "rules.longest_round"),
        ({"agent": {"plaintext": True}}, "agent.plaintext: unknown key"),
        ({"relay": {"user": ""}}, "relay.user"),
        ({"data": {"data": {"text": "text"}}}, "data.data.source: missing"),
        ({"data": {"x": {"source": "x.csv", "label": "label"}}}, "both label and labels"),
        ({"data": {"x": {"source": "x.csv", "label": "l", "labels": ["a", "a"]}}}, "each once"),
        ({"rules": {"coordinator": "00"}}, "rules.coordinator"),
        ({"buget": {"epsilon": 1.0}}, "buget: unknown key"),
    ],
)
def test_what_makes_no_sense_is_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    path = write_site(folder / "home", folder, COORDINATOR, **changes)
    with pytest.raises(PolicyFileError, match=words):
        read_site_file(path)


def test_a_typo_in_the_file_is_no_policy_either(folder: Path) -> None:
    path = write_site(folder / "home", folder, COORDINATOR, buget={"epsilon": 1.0})
    with pytest.raises(PolicyFileError, match="buget: unknown key"):
        read_policy(path)


def test_the_policy_is_that_of_the_same_file(folder: Path) -> None:
    path = write_site(folder / "home", folder, COORDINATOR, rules={"least_cohort": 3})
    policy, whole = read_policy(path), read_site_file(path)
    assert (policy.budget, policy.rules) == (whole.budget, whole.rules)
    assert policy.rules.least_cohort == 3


def test_what_the_file_says_now_counts(folder: Path) -> None:
    """A text that was read before is known again, and no other one is taken for it."""
    first = write_site(folder / "home", folder, COORDINATOR, rules={"least_cohort": 3})
    text = first.read_text()
    assert [read_policy(first).rules.least_cohort for _ in range(2)] == [3, 3]
    first.write_text(text.replace("least_cohort = 3", "least_cohort = 4"))
    assert read_policy(first).rules.least_cohort == 4
    first.write_text(text.replace("least_cohort = 3", "least_cohort = 0"))
    with pytest.raises(PolicyFileError, match="least_cohort"):
        read_policy(first)
    first.write_text(text)
    assert read_policy(first).rules.least_cohort == 3


def test_paths_are_beside_the_file_and_packages_are_packages(folder: Path) -> None:
    home = folder / "home"
    data = {"x": {"source": "x.csv"}, "y": {"source": "/y.csv"}, "z": {"source": "package:z/z.csv"}}
    path = write_site(
        home,
        folder,
        COORDINATOR,
        data=data,
        models={"one": "models/one", "two": "package:two", "three": "hub:three"},
    )
    found = read_site_file(path)
    sources = {alias: source.source for alias, source in found.data.items()}
    assert {"x": str(home / "x.csv"), "y": "/y.csv", "z": "package:z/z.csv"}.items() <= sources.items()
    assert found.models["one"] == str(home / "models" / "one")
    assert found.models["two"] == "package:two"
    assert found.models["three"] == "hub:three"
    assert found.agent.socket == str(home / "agent.sock")
    assert find_home(path) == find_home(home) == home
    assert find_site_file(path) == find_site_file(home) == path


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({}, "unix:{home}/agent.sock"),
        ({"agent": {"socket": "/run/x.sock"}}, "unix:/run/x.sock"),
        ({"agent": {"listen": "0.0.0.0:9443"}}, "0.0.0.0:9443"),
        ({"agent": {"listen": "0.0.0.0:9443"}, "relay": {"agent": "agent:9443"}}, "agent:9443"),
        ({"agent": {"listen": "[::1]:9443"}}, "[::1]:9443"),
    ],
)
def test_the_relay_finds_the_agent(folder: Path, changes: dict[str, Any], address: str) -> None:
    home = folder / "home"
    found = read_site_file(write_site(home, folder, COORDINATOR, **changes))
    assert found.agent_address == address.format(home=home)


@pytest.mark.parametrize(
    ("device", "names"),
    [
        ({}, []),
        ({"device": {"name": "cuda:1"}}, ["cuda:1"]),
        ({"device": {"offload": True}}, []),
        ({"device": {"name": ["cuda:1", "cuda:0"]}}, ["cuda:1", "cuda:0"]),
        ({"device": {"name": ["cpu", "cpu"]}}, ["cpu", "cpu"]),
    ],
)
def test_a_site_names_one_device_or_several(folder: Path, device: dict[str, Any], names: list[str]) -> None:
    path = write_site(folder / "home", folder, COORDINATOR, **device)
    assert read_site_file(path).device.name == names
    assert read_site_file(path).device.offload is device.get("device", {}).get("offload")
    assert read_policy(path).budget.epsilon == read_site_file(path).budget.epsilon
