"""``confide site start`` and ``status``: a site from its first start to its last."""

from __future__ import annotations

import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from client.custody.home import Home
from client.custody.relay_user import RelayUser, hand_over, relay_user
from client.custody.site_file import read_site_file
from client.relay.delivery import deliver
from client.relay.relay_program import relay_program
from confide.cli import main
from privacy.errors import KeyFileError, UserError
from protocol.messages.channel import in_chunks, open_channel
from protocol.messages.confide_pb2 import AgentHealth, HealthRequest, Reply
from protocol.messages.confide_pb2_grpc import AgentStub
from protocol.messages.envelope import COORDINATOR, open_envelope
from protocol.messages.site_keys import make_site_keys
from simulation.simulated_federation import World
from tests import children, tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.sites import charges
from tests.needs import needs_root


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    # A round of so many steps that it is still going on when something happens to it.
    return World(tiny.job(tiny_folder, training={"rounds": 3, "local_steps": 400}))


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path, coordinator: Coordinator) -> Path:
    make_site_keys(tmp_path / "home", now=datetime.now(UTC))
    (tmp_path / "home" / "relay" / "ca.crt").write_text("an authority")
    write_site(tmp_path / "home", tiny_folder, coordinator.identity)
    return tmp_path / "home"


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts the agent alone, and waits until it answers."""
    started = []

    def begin() -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "confide",
            "site",
            "start",
            str(home / "site.toml"),
            "--agent-only",
        ]
        process = children.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started.append(process)
        assert f"{SITE} answers at {home / 'agent.sock'}" in process.stdout.readline()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=20)


@dataclass(frozen=True)
class Done:
    code: int
    output: str
    errors: str


@pytest.fixture
def confide(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs ``confide`` where it stands."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["confide", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        output, errors = capfd.readouterr()
        return Done(int(caught.value.code or 0), output, errors)

    return run


def health(home: Path) -> AgentHealth:
    with open_channel(f"unix:{home / 'agent.sock'}", None) as channel:
        return AgentStub(channel).Health(HealthRequest(), timeout=10)


def ask(home: Path, envelope: bytes) -> Reply:
    """What the relay brings back."""
    sealed = deliver(envelope, f"unix:{home / 'agent.sock'}")
    public = Home(home).identity().public
    return Reply.FromString(
        open_envelope(sealed, public_key=public, sender=SITE, receiver=COORDINATOR).payload
    )


def until_it_takes_steps(home: Path) -> AgentHealth:
    pause = threading.Event()
    while not (found := health(home)).step:
        pause.wait(0.05)  # it needs the processor more than whoever asks
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--agent-only", "--relay-only"], "got both"),
        (["nowhere.toml"], "no policy at nowhere.toml"),
    ],
)
def test_what_cannot_be_started_is_said(
    confide: Callable[..., Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = confide("site", "start", *arguments)
    assert (done.code, done.output) == (2, "")
    assert words in done.errors


@pytest.mark.process
def test_a_round_that_is_stopped_or_killed_goes_on_in_the_next_life(
    confide: Callable[..., Done], home: Path, start: Start, world: World, coordinator: Coordinator
) -> None:
    manifest = world.manifest("run")
    agent = start()
    second = confide("site", "start", home, "--agent-only")
    assert second.code == 1
    assert f"an agent runs at {home} already" in second.errors

    assert ask(home, coordinator.join(manifest)).HasField("joined")
    envelope = coordinator.train(manifest, world)
    with ThreadPoolExecutor(1) as pool, open_channel(f"unix:{home / 'agent.sock'}", None) as channel:
        call = pool.submit(list, AgentStub(channel).Deliver(in_chunks(envelope), timeout=60))
        found = until_it_takes_steps(home)
        assert (found.state, found.run, found.round, found.steps) == ("working", "run", 1, 400)
        agent.send_signal(signal.SIGTERM)
        error = call.exception(60)
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert agent.wait(30) == 0
    assert len(charges(home)) == 1

    # The relay asks on and on: through a kill, it gets its answer from the third life.
    agent = start()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, home, envelope)
        until_it_takes_steps(home)
        agent.kill()
        agent.wait(30)
        start()
        reply = asked.result(60)
    assert reply.trained.round == 1
    assert len(charges(home)) == 3
    # What is asked once more is not trained again, nor charged.
    assert ask(home, envelope) == reply
    assert len(charges(home)) == 3


@pytest.mark.process
def test_status_tells_of_a_site_whether_its_agent_runs_or_not(
    confide: Callable[..., Done],
    home: Path,
    start: Start,
    world: World,
    coordinator: Coordinator,
    tiny_folder: Path,
) -> None:
    write_site(home, tiny_folder, coordinator.identity, rules={"approval": "manual"})
    down = json.loads(confide("site", "status", home, "--json").output)
    assert (down["site"], down["agent"], down["datasets"], down["waiting"]) == (SITE, None, [], [])

    agent = start()
    manifest = world.manifest("run")
    assert "confide site approve run" in ask(home, coordinator.join(manifest)).refused.reason
    shown = json.loads(confide("site", "status", home / "site.toml", "--json").output)
    assert shown["agent"]["state"] == "idle"
    assert shown["agent"]["uptime"] > 0
    assert [(item["dataset"], item["spent"]) for item in shown["datasets"]] == [(2, 0.0)]
    assert shown["waiting"] == [{"run": "run", "manifest": manifest.digest.hex()}]
    plain = confide("site", "status", home).output
    assert f"Run run waits for you: confide site approve run --home {home}" in plain

    done = confide("site", "approve", "run", "--yes", "--home", home / "site.toml")
    assert (done.code, done.output.splitlines()[-1]) == (0, "Approved run run")
    assert ask(home, coordinator.join(manifest)).HasField("joined")
    agent.send_signal(signal.SIGINT)
    assert agent.wait(30) == 0
    plain = confide("site", "status", home).output
    assert "down" in plain
    assert "waits for you" not in plain


@pytest.mark.process
def test_what_an_agent_writes_is_its_owners_alone(
    home: Path, start: Start, world: World, coordinator: Coordinator
) -> None:
    start()
    ask(home, coordinator.join(world.manifest("run")))
    written = [path for path in home.rglob("*") if path.name not in {"site.toml", "relay"}]
    open_to_others = {path.name for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert open_to_others <= {"agent.crt", "ca.crt", "relay.crt"}
    assert (home / "outbox").is_dir()


@pytest.mark.parametrize(
    ("kind", "agent"),
    [
        ("resident", "--agent unix:{home}/agent.sock"),
        ("flower", '--node-config agent="unix:{home}/agent.sock"'),
    ],
)
def test_the_relay_is_started_with_tls_and_its_own_keys_alone(
    home: Path, tiny_folder: Path, coordinator: Coordinator, kind: str, agent: str
) -> None:
    path = write_site(home, tiny_folder, coordinator.identity, relay={"kind": kind})
    program = relay_program(home, read_site_file(path))
    command = " ".join(program.command)
    assert f"--superlink localhost:8443 --root-certificates {home}/relay/ca.crt" in command
    assert f"--auth-supernode-private-key {home}/relay/node.key" in command
    assert agent.format(home=home) in command
    assert "--insecure" not in command
    assert program.environment["FLWR_HOME"] == str(program.folder) == str(home / "relay" / "flower")
    (home / "relay" / "node.key").unlink()
    with pytest.raises(KeyFileError, match=r"node.key, which `confide provision` makes"):
        relay_program(home, read_site_file(path))


# Another user for the relay.


def other_user() -> RelayUser:
    account = pwd.getpwnam("nobody")
    return RelayUser(
        name="nobody", number=account.pw_uid, group=account.pw_gid, groups=frozenset({account.pw_gid})
    )


def test_a_user_that_is_not_here_starts_no_relay(
    home: Path, tiny_folder: Path, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_site(home, tiny_folder, coordinator.identity, relay={"user": "no-such-user"})
    with pytest.raises(UserError, match="no such user"):
        relay_user(read_site_file(path))
    path = write_site(home, tiny_folder, coordinator.identity, relay={"user": "nobody"})
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UserError, match="only root starts a relay as another user"):
        relay_user(read_site_file(path))
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    assert relay_user(read_site_file(path)) is None


@needs_root
def test_the_relays_user_reaches_its_keys_and_nothing_else(
    home: Path, tmp_path: Path, tiny_folder: Path, coordinator: Coordinator
) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o001)
    user = other_user()
    (home / "ledger.db").write_text("what was spent")
    (home / "ledger.db").chmod(0o666)
    private = tmp_path / "rows.csv"
    private.write_text("text,label\n")
    private.chmod(0o600)
    data = {"data": {"source": str(private), "label": "label", "labels": ["no", "yes"]}}
    site_file = read_site_file(write_site(home, tiny_folder, coordinator.identity, data=data))
    hand_over(home, user, site_file)

    relay = home / "relay"
    allowed = {relay / name for name in ("node.key", "relay.key", "ca.crt", "relay.crt", "agent.crt")}
    readable = {path for path in home.rglob("*") if path.is_file() and user.may(4, path)}
    assert readable == allowed
    # It writes in the folder that Flower needs, and can replace no key and no certificate.
    writable = {path for path in [home, *home.rglob("*")] if user.may(2, path)}
    assert writable == {relay / "flower"}
    seen = subprocess.run(
        ["cat", str(relay / "node.key"), str(home / "identity.key")],  # noqa: S607
        user=user.number,
        group=user.group,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OPENSSH PRIVATE KEY" in seen.stdout
    assert "Permission denied" in seen.stderr

    private.chmod(0o644)
    with pytest.raises(UserError, match=r"can reach data.data.source, .*rows.csv"):
        hand_over(home, user, site_file)
    private.chmod(0o600)
    (relay / "node.key").unlink()
    (relay / "node.key").symlink_to(private)
    with pytest.raises(UserError, match="is a link"):
        hand_over(home, user, site_file)
