"""A site's agent under a user of its own on this machine, for tests that come at it as others.

No account is made: users and groups are numbers, those that the folder deploy/ uses.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from privacy.identity import Identity
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests import children, tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.deploy.users import AGENT, RELAY, SOCKET_GROUP

STRANGER = 10099  # who is nobody's

ROOT = Path(__file__).resolve().parents[2]


def interpreter() -> str | None:
    """A Python like this one that every user may run, if there is one."""
    version = f"python3.{sys.version_info.minor}"
    for path in (
        Path(sys.executable).resolve(),
        *(Path(p, version) for p in ("/usr/local/bin", "/usr/bin")),
    ):
        if path.exists() and all(place.stat().st_mode & 0o005 == 0o005 for place in [path, *path.parents]):
            return str(path)
    return None


def obstacle() -> str | None:
    """Why two users can't be tried on this machine, if they can't."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root, on Linux, can run programs as other users"
    if interpreter() is None:
        return "no Python of this version can be run by other users"
    if not all(place.stat().st_mode & 0o005 == 0o005 for place in [ROOT, *ROOT.parents]):
        return f"other users cannot read {ROOT}"
    return None


def start(
    module: str, *arguments: str, user: int, groups: list[int], **options: Any
) -> subprocess.Popen[str]:
    """A module of these tests as a program of another user, who has nothing of this one's."""
    return children.start(
        [str(interpreter()), "-m", module, *arguments],
        python=str(interpreter()),
        user=user,
        group=user,
        extra_groups=groups,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.defpath,
            "HOME": "/nonexistent",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        **options,
    )


class Wall:
    """A running site: what its custodian and its coordinator have, and ways to come at it."""

    def __init__(self, base: Path, world: World, agent: subprocess.Popen[str]) -> None:
        self.world = world
        self.agent = agent
        self.home, self.data, self.run = base / "home", base / "data", base / "run"
        self.coordinator = Coordinator(_identity(base))
        self.manifest = world.manifest("run")
        self.sent: list[bytes] = []  # every envelope that the true relay brought

    @property
    def socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def alive(self) -> bool:
        return self.agent.poll() is None

    def relay(self, envelope: bytes) -> Reply:
        """What a true relay brings back for an envelope."""
        self.sent.append(envelope)
        task = {"envelope": base64.b64encode(envelope).decode(), "socket": str(self.socket)}
        sealed = base64.b64decode(self._run("relay", task, RELAY, [SOCKET_GROUP]))
        site = Identity.load(self.home / "identity.key").public
        opened = open_envelope(sealed, public_key=site, sender=SITE, receiver=COORDINATOR)
        return Reply.FromString(opened.payload)

    def attack(
        self, kind: str, *, user: int = RELAY, groups: tuple[int, ...] = (SOCKET_GROUP,), **task: Any
    ) -> dict[str, str]:
        """What became of each attempt of a kind."""
        whole = {
            "agent": AGENT,
            "pid": self.agent.pid,
            "home": str(self.home),
            "socket": str(self.socket),
            **{name: [str(place) for place in task.pop(name, ())] for name in ("paths", "folders")},
            **task,
        }
        found: dict[str, str] = self._run(kind, whole, user, list(groups))
        return found

    def state(self) -> dict[str, tuple[int, int, int, str]]:
        """What the site has on disk: mode, owner, group and SHA-256 of each file, or which socket.

        But for its log, which says what was turned away.
        """
        found = {}
        for top in (self.home, self.data, self.run):
            for path in [top, *sorted(top.rglob("*"))]:
                if path.name.startswith("agent.log"):
                    continue
                stat = path.lstat()
                digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                which = f"inode {stat.st_ino}" if path.is_socket() else digest
                found[str(path)] = stat.st_mode, stat.st_uid, stat.st_gid, which
        return found

    def _run(self, kind: str, task: dict[str, Any], user: int, groups: list[int]) -> Any:
        process = start("tests.deploy.hostile", kind, user=user, groups=groups)
        said, _ = process.communicate(json.dumps(task), timeout=100)
        assert process.returncode == 0, (kind, process.returncode)
        return json.loads(said)


@contextmanager
def walled() -> Iterator[Wall]:
    """A site whose agent runs as AGENT, with a socket for SOCKET_GROUP, until the end of the block."""
    # Not under pytest's own folder, which is closed to others.
    base = Path(tempfile.mkdtemp(prefix="confide-wall-"))
    base.chmod(0o755)
    agent = None
    try:
        world = World(tiny.job(base / "job"))
        _furnish(base, _identity(base))
        home = base / "home"
        agent = start(
            "tests.deploy.agent_process", str(home), str(SOCKET_GROUP), user=AGENT, groups=[SOCKET_GROUP]
        )
        assert agent.stdout is not None
        assert agent.stdout.readline() == "ready\n"
        yield Wall(base, world, agent)
    finally:
        if agent is not None:
            agent.send_signal(signal.SIGCONT)
            agent.communicate(timeout=60)
        shutil.rmtree(base)


def _identity(base: Path) -> Identity:
    """The coordinator's, which the site never sees."""
    return Identity.load_or_create(base / "coordinator" / "identity.key")


def _furnish(base: Path, coordinator: Identity) -> None:
    home, data, run = base / "home", base / "data", base / "run"
    for folder in (data, run):
        folder.mkdir()
    (base / "job" / "data.csv").rename(data / "data.csv")
    (base / "coordinator").chmod(0o700)
    source = {"source": str(data / "data.csv")}
    write_site(
        home,
        base / "job",
        coordinator,
        agent={"socket": str(run / "agent.sock")},
        data={"data": {"label": "label", "labels": ["no", "yes"], **source}},
    )
    (base / "job" / "data.csv").unlink(missing_ok=True)
    Identity.load_or_create(home / "identity.key")
    for path in (base / "job").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for top in (home, data):
        for path in [top, *top.rglob("*")]:
            os.chown(path, AGENT, AGENT)
            path.chmod(0o700 if path.is_dir() else 0o600)
    os.chown(run, AGENT, SOCKET_GROUP)
    run.chmod(0o750)
