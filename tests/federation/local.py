"""A real federation on this machine: provisioned, started and stopped by the commands that people type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from server.provisioning.coordinator_folder import CoordinatorFolder
from tests import children, tiny
from tests.ports import free_port
from tests.server.coordinators import fix_superlink_port

SITES = ("north", "south", "west")
# Both kinds of relay pass the same tests; a SuperNode's process for every message makes them slow.
RELAYS = ("resident", pytest.param("flower", marks=pytest.mark.exhaustive))
PATIENCE = 900.0  # seconds for anything to happen on a busy machine; nothing is measured by it


class LocalFederation:
    """Three sites and a coordinator under one folder, each part a process of its own.

    ``job`` settings keep rounds short; processes are known by name: server, agent-north, relay-north, …
    """

    def __init__(
        self,
        folder: Path,
        *,
        relay: str = "resident",
        address: str | None = None,
        inside: Callable[[str], list[str]] | None = None,
    ) -> None:
        """``relay`` is the sites' ``relay.kind``.

        ``inside`` gives the words before a process's command, as those that enter a namespace.
        """
        self.folder = folder
        self._inside = inside or (lambda _name: [])
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log = folder / "logs"
        self.log.mkdir(parents=True)
        self.confide("init", "--federation", ".")
        _replace(folder / "federation.toml", "localhost:8443", address or f"localhost:{free_port()}")
        self.confide("provision", "federation.toml", "--out", "federation")
        self.coordinator = folder / "federation" / "coordinator"
        fix_superlink_port(CoordinatorFolder(self.coordinator))
        model = tiny.write_model(folder / "model")
        for site in SITES:
            _replace(self.home(site) / "site.toml", "\n\n[budget]", f'\n"{model}" = "{model}"\n\n[budget]')
            _replace(
                self.home(site) / "site.toml",
                "[relay] ",
                f'[relay]\nkind = "{relay}"\nport = {free_port()} ',
            )

    @property
    def job(self) -> Path:
        return self.folder / "job.toml"

    @property
    def tiny(self) -> list[str]:
        """Words for ``start_run``: a model that is loaded in a moment, which sites allow as well."""
        return [
            "--set",
            f"model.source={self.folder / 'model'}",
            "--set",
            "adapter.layers_to_transform=[1]",
        ]

    def home(self, site: str) -> Path:
        return self.folder / "federation" / "kits" / site

    def runs(self) -> list[Path]:
        return sorted(path for path in (self.coordinator / "runs").glob("[!.]*") if path.is_dir())

    def confide(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = children.run(
            [*self._inside("command"), sys.executable, "-m", "confide", *words],
            cwd=self.folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"confide {' '.join(words)}: {done.stdout}{done.stderr}")
        return done

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a command that goes on; what it says goes to ``logs/<name>.log``."""
        with (self.log / f"{name}.log").open("ab") as log:
            process = children.start(
                [*self._inside(name), sys.executable, "-m", "confide", *words],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def start_server(self) -> None:
        self.start("server", "server", "start", "federation/coordinator")

    def start_site(self, site: str) -> None:
        self.start_agent(site)
        self.start_relay(site)

    def start_agent(self, site: str) -> None:
        self.start(f"agent-{site}", "site", "start", str(self.home(site) / "site.toml"), "--agent-only")

    def start_relay(self, site: str) -> None:
        self.start(f"relay-{site}", "site", "start", str(self.home(site) / "site.toml"), "--relay-only")

    def start_run(self, *words: str, name: str = "run") -> subprocess.Popen[bytes]:
        return self.start("run", "run", str(self.job), "--run-name", name, "--json", *_settings(), *words)

    def resume(self, name: str = "run") -> subprocess.Popen[bytes]:
        return self.start("run", "run", "--resume", str(self.coordinator / "runs" / name), "--json")

    def connected(self) -> set[str]:
        """The sites that the server says are connected; none while it does not answer."""
        done = self.confide("server", "status", "federation/coordinator", "--json", check=False)
        if done.returncode != 0:
            return set()
        return {site["site"] for site in json.loads(done.stdout)["sites"] if site["state"] == "connected"}

    def wait_for_sites(self, *sites: str) -> None:
        # No site connects before the server says that it is ready.
        log = self.log / "server.log"
        self.wait_until(lambda: " ready; " in log.read_text(), what="the server to be ready")
        # Each look starts two programs, which would keep a core from those that are waited for.
        self.wait_until(lambda: self.connected() >= set(sites or SITES), what="sites to connect", pause=2.0)

    def wait_until(
        self, done: Callable[[], bool], *, what: str, seconds: float = PATIENCE, pause: float = 0.1
    ) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds:.0f} s for {what}\n{self.said()}")
            time.sleep(pause)

    def wait(self, process: subprocess.Popen[bytes], *, seconds: float = PATIENCE) -> int:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"a process did not end within {seconds:.0f} s\n{self.said()}") from None

    def kill(self, name: str) -> None:
        """SIGKILL one process, as a power cut would."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> int:
        """SIGTERM, and the exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(30)

    def close(self) -> None:
        """End every process that was started, by its id, and what it started."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._see_all_ended()

    def _see_all_ended(self) -> None:
        """Raises AssertionError, and ends them, if any process that works in this folder is left."""
        end = time.monotonic() + PATIENCE / 5
        while left := _naming(str(self.folder)):
            if time.monotonic() > end:
                said = [" ".join(process.cmdline()) for process in left]
                for process in left:
                    process.kill()
                raise AssertionError(f"these outlived the federation: {said}")
            time.sleep(0.1)

    def said(self, lines: int = 15) -> str:
        """The ends of all logs."""
        parts = []
        for path in sorted([*self.log.glob("*.log"), *self.folder.rglob("run.log")]):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.relative_to(self.folder)}\n" + "\n".join(tail))
        return "\n".join(parts)


@contextmanager
def local_federation(
    folder: Path, *, sites: tuple[str, ...] = SITES, relay: str = "resident"
) -> Iterator[LocalFederation]:
    """A federation whose server and sites run, and are connected."""
    federation = LocalFederation(folder, relay=relay)
    try:
        federation.start_server()
        for site in sites:
            federation.start_site(site)
        federation.wait_for_sites(*sites)
        yield federation
    finally:
        federation.close()


def _naming(folder: str) -> list[psutil.Process]:
    """The processes whose command names a folder, but for this one."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid() and any(folder in word for word in process.info["cmdline"] or ())
    ]


def _settings() -> list[str]:
    small = (
        "training.batch_size=32",
        "training.physical_batch_size=32",
        "data.limit=200",
        "data.max_length=16",
    )
    quick = ("training.rounds=2", "training.local_steps=2", *small)
    return [word for setting in quick for word in ("--set", setting)]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        raise AssertionError(f"{path.name} of the sample federation has no {old!r}")
    path.write_text(text.replace(old, new))
