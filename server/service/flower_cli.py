"""Flower's own commands against the coordinator's SuperLink, typed.

They find it by ``FLWR_HOME/config.toml``, which ``write_connection`` writes. Each takes about a second.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import tomli_w

from privacy.durable import write_whole
from privacy.errors import RunError
from protocol.processes.flower_process import flower_environment, flower_program

CONNECTION = "coordinator"

# Flower's code for a public key that is registered, or was once: it takes none twice.
_KEY_IN_USE = "[code: 23]"


@dataclass(frozen=True, kw_only=True)
class FlowerNode:
    """A SuperNode as Flower lists it; times are as Flower writes them, in UTC, None if it never happened.

    ``status`` is registered (it never came), online, offline or unregistered (it may never come again).
    """

    id: int
    status: str
    online_since: str | None
    offline_since: str | None

    @property
    def unregistered(self) -> bool:
        return self.status == "unregistered"


@dataclass(frozen=True, kw_only=True)
class FlowerRun:
    """A run as Flower lists it: ``status`` as pending, running or finished:completed."""

    id: int
    status: str
    details: str

    @property
    def finished(self) -> bool:
        return self.status.startswith("finished")


def write_connection(home: Path, *, address: str, authority: Path) -> None:
    """Tell Flower's commands where the SuperLink is, and which certificate authority speaks for it."""
    table = {"address": address, "root-certificates": str(authority.resolve())}
    home.mkdir(parents=True, exist_ok=True)
    content = {"superlink": {"default": CONNECTION, CONNECTION: table}}
    write_whole(home / "config.toml", tomli_w.dumps(content).encode(), mode=0o600)


def read_address(home: Path) -> str | None:
    """The address that was written last, if one was. Raises RunError if the file cannot be read."""
    path = home / "config.toml"
    if not path.exists():
        return None
    try:
        return str(tomllib.loads(path.read_text())["superlink"][CONNECTION]["address"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}; delete it and start the server again") from error


class FlowerCli:
    """The commands. Each raises RunError with Flower's own message, ``timeout`` in seconds."""

    def __init__(self, home: Path, *, timeout: float = 60.0) -> None:
        self._home, self._timeout = home, timeout

    def nodes(self) -> list[FlowerNode]:
        """Every SuperNode that was ever registered."""
        listed = self._call("supernode", "list", CONNECTION)["nodes"]
        return [
            FlowerNode(
                id=int(node["node-id"]),
                status=node["status"],
                online_since=_time(node["online-at"]),
                offline_since=_time(node["offline-at"]),
            )
            for node in listed
        ]

    def register(self, public_key: Path, *, name: str) -> int | None:
        """Register a SuperNode: its id, or None if Flower knows the key already, or did once."""
        if not public_key.exists():
            raise RunError(f"the public key file {public_key} does not exist")
        words = ("supernode", "register", str(public_key.resolve()), CONNECTION, "--name", name)
        answer = self._answer(*words)
        if not answer.get("success") and _KEY_IN_USE in str(answer.get("error-message")):
            return None
        return int(_successful(answer, words)["node-id"])

    def unregister(self, node: int) -> None:
        """Take a SuperNode off the list: it is refused from now on, and its key for ever."""
        self._call("supernode", "unregister", str(node), CONNECTION)

    def run(self, app: Path, config: Mapping[str, str | int | float | bool] | None = None) -> int:
        """Build the app in a folder, submit it and return the run's id. ``config`` overrides the app's."""
        with NamedTemporaryFile(suffix=".toml") as file:  # on a command line, quotes in a text break it
            file.write(tomli_w.dumps(dict(config or {})).encode())
            file.flush()
            options = ("--run-config", file.name) if config else ()
            return int(self._call("run", str(app.resolve()), CONNECTION, *options)["run-id"])

    def find(self, run: int) -> FlowerRun:
        """How a run is doing."""
        row = self._call("list", CONNECTION, "--run-id", str(run))["runs"][0]
        return FlowerRun(id=run, status=row["status"], details=row["status-details"])

    def stop(self, run: int) -> None:
        """End a run."""
        self._call("stop", str(run), CONNECTION)

    def _call(self, *words: str) -> dict[str, Any]:
        return _successful(self._answer(*words), words)

    def _answer(self, *words: str) -> dict[str, Any]:
        try:
            done = subprocess.run(  # noqa: S603  # no shell
                [flower_program("flwr"), *words, "--format", "json"],
                env=flower_environment(self._home),
                cwd=self._home,  # elsewhere Flower looks for a pyproject.toml to migrate
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=self._timeout,
                start_new_session=True,  # Ctrl-C is for the caller, who decides what it means
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(
                f"flwr {words[0]} did not answer within {self._timeout:g} s: is the server running?"
            ) from error
        except FileNotFoundError as error:
            raise RunError(f"{self._home} does not exist: start the server first") from error
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer
        # Its parser of arguments knows no JSON: it draws, and only what are words matters.
        said = (done.stderr or done.stdout).split()
        words_alone = " ".join(word for word in said if any(letter.isalnum() for letter in word))
        raise RunError(
            f"{_command(words)}: no JSON, exit code {done.returncode}, and: {words_alone[-1000:]}"
        )


def _successful(answer: dict[str, Any], words: tuple[str, ...]) -> dict[str, Any]:
    if not answer.get("success"):
        said = _sentence(str(answer.get("error-message", "")))
        raise RunError(f"{_command(words)}: {said or 'no answer'}")
    return answer


def _command(words: tuple[str, ...]) -> str:
    return " ".join(("flwr", *(words[:2] if words[0] == "supernode" else words[:1])))


def _sentence(message: str) -> str:
    """A message of Flower's in one line, without the notice that it begins with."""
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Using SuperLink"))


def _time(text: str) -> str | None:
    return None if text in ("", "N/A") else text
