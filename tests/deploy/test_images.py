"""The images: what goes into them and as whom they run; and every command in deploy/ is one that exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.containers import DEPLOY, all_containers
from tests.deploy.users import AGENT, RELAY, SERVER, SOCKET_GROUP
from tests.needs import find, needs
from tests.test_docs import COMMANDS

ROOT = DEPLOY.parent
DOCKER = DEPLOY / "docker"
IMAGES = {"agent": (AGENT, AGENT), "relay": (RELAY, SOCKET_GROUP), "coordinator": (SERVER, SERVER)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_AT_THE_RELAY = {"torch", "transformers", "opacus", "peft", "pyarrow", "uv", "ray", "dp-accounting"}

_ONLY_LISTED = """
import sys
from importlib.metadata import packages_distributions
listed = set(sys.argv[1].split())
named = {m: {n.lower().replace("_", "-") for n in d} for m, d in packages_distributions().items()}
absent = {module for module, names in named.items() if not names & listed}
absent -= {"client", "privacy", "protocol"} | set(sys.stdlib_module_names)
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import client.relay.relay_app
import client.relay.relay_process
import flwr.supernode.fleet_http_connection
assert "torch" in absent
"""


def instructions(image: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and their arguments, without comments and line breaks."""
    lines = [line for line in (DOCKER / f"Dockerfile.{image}").read_text().splitlines() if line[:1] != "#"]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def packages(name: str) -> set[str]:
    lines = (DOCKER / name).read_text().splitlines()
    return {canonicalize_name(line) for line in lines if line and not line.startswith("#")}


def closure(names: set[str]) -> set[str]:
    """Packages, and all that they need, as they are installed here."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), "") for name in names]
    seen = set()
    while waiting:
        name, extra = item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        found.add(name)
        for line in _requires(name):
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(need.name), which) for which in ("", *need.extras)]
    return found


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("image", IMAGES)
def test_images_run_as_their_own_users(image: str) -> None:
    user, group = IMAGES[image]
    last = instructions(image)[[word for word, _ in instructions(image)].index("FROM") :]
    users = [argument for word, argument in last if word == "USER"]
    whole = " ".join(argument for _, argument in last)

    assert users == [f"{user}:{group}"]
    assert f"--gid {group} " in whole
    assert f"--uid {user} " in whole
    # The relay listens nowhere: that it runs is all that can be asked.
    assert any(word == "HEALTHCHECK" for word, _ in last) == (image != "relay")
    # A shell would keep SIGTERM to itself.
    assert last[-1][0] in {"CMD", "ENTRYPOINT"}
    assert last[-1][1].startswith("[")


@pytest.mark.parametrize("image", IMAGES)
def test_only_what_is_named_goes_in(image: str) -> None:
    copied = {
        path
        for word, argument in instructions(image)
        if word == "COPY" and not argument.startswith("--from")
        for path in argument.split()[:-1]
    }
    ignore = (DOCKER / f"Dockerfile.{image}.dockerignore").read_text().split("\n")
    allowed = {line[1:] for line in ignore if line.startswith("!")}

    assert next(line for line in ignore if line and not line.startswith("#")) == "*"
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)
    packaged = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {pattern.rstrip("*") for pattern in packaged} <= copied
    assert not any(word == "ADD" for word, _ in instructions(image))


def test_versions_are_the_locks() -> None:
    lock = {
        canonicalize_name(line.split("==")[0]) for line in (ROOT / "requirements.lock").read_text().split()
    }
    for name in ("packages.txt", "packages-relay.txt"):
        assert packages(name) <= lock
    for image in IMAGES:
        installs = [argument for word, argument in instructions(image) if "pip install" in argument]
        assert all(
            "-c requirements.lock" in line or "--no-deps --no-build-isolation ." in line
            for line in installs
        )


def test_the_lists_are_what_is_needed() -> None:
    needed = closure({Requirement(line).name for line in PROJECT["project"]["dependencies"]})
    assert packages("packages.txt") == needed
    assert packages("packages-relay.txt") == closure({"flwr"}) - {"uv"}
    assert not packages("packages-relay.txt") & NOT_AT_THE_RELAY


def test_the_relay_starts_with_its_list_alone() -> None:
    command = [sys.executable, "-c", _ONLY_LISTED, " ".join(packages("packages-relay.txt"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert done.returncode == 0, done.stderr


def command_lines() -> list[list[str]]:
    """Every ``confide`` command line in deploy/, as words without ``confide``."""
    found = [list(c.words[1:]) for c in all_containers() if c.words[:1] == ("confide",)]
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = re.sub(r'", "', " ", path.read_text())
            found += [
                match.split()
                for match in re.findall(r"(?:bin/|exec coordinator |\[\")confide ([^\"\n`]*)", text)
            ]
    return found


def test_commands_exist() -> None:
    lines = command_lines()
    assert len(lines) >= 9
    for words in lines:
        command = COMMANDS.get(words[0]) or COMMANDS[" ".join(words[:2])]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


@needs("hadolint")
@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_has_nothing_to_say(image: str) -> None:
    command = [str(find("hadolint")), "--ignore", "DL3059", str(DOCKER / f"Dockerfile.{image}")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
