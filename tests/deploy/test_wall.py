"""The relay's user, whatever it runs, gets nothing from a site that the coordinator did not sign for.

Two users of this machine, an agent that serves a job, and code in the relay's place that tries what it can.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.agent.agent import DELIVERIES
from privacy.identity import Identity
from privacy.ledger.entries import Released
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import MANIFEST_PURPOSE
from protocol.messages.confide_pb2 import Join, Request
from tests.deploy.users import AGENT, RELAY, SOCKET_GROUP
from tests.deploy.wall import STRANGER, Wall, obstacle, walled

pytestmark = [pytest.mark.process, pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))]

DENIED = {"EACCES", "EPERM"}


@pytest.fixture(scope="module")
def wall() -> Iterator[Wall]:
    """A site that joined a run and answered two rounds, so that there is something to take."""
    with walled() as site:
        joined = site.relay(site.coordinator.join(site.manifest))
        assert joined.WhichOneof("kind") == "joined", joined.refused.reason
        for number in (1, 2):
            trained = site.relay(site.coordinator.train(site.manifest, site.world, number))
            assert trained.WhichOneof("kind") == "trained", trained.refused.reason
        yield site


@pytest.fixture(autouse=True)
def nothing_happened(wall: Wall) -> Iterator[None]:
    """No byte, mode or owner of the site's files differs after a test, and its agent lives."""
    before = wall.state()
    assert f"{wall.home}/ledger.db" in before
    yield
    assert wall.state() == before
    assert wall.alive


def secrets_of(wall: Wall) -> dict[str, list[Path]]:
    """Every file and folder that is the agent's alone."""
    inside = [path for top in (wall.home, wall.data) for path in [top, *top.rglob("*")]]
    return {
        "paths": [path for path in inside if path.is_file()],
        "folders": [path for path in inside if path.is_dir()],
    }


def test_there_is_something_to_take(wall: Wall) -> None:
    names = {path.name for path in secrets_of(wall)["paths"]}
    assert {"data.csv", "site.toml", "identity.key", "ledger.db", "agent.lock"} <= names
    assert any(path.parent.name == "outbox" for path in secrets_of(wall)["paths"])


def test_nothing_of_the_site_can_be_read(wall: Wall) -> None:
    found = wall.attack("reads", **secrets_of(wall))

    assert len(found) >= 8
    assert set(found.values()) == {"EACCES"}


def test_nothing_of_the_site_can_be_changed(wall: Wall) -> None:
    found = wall.attack("writes", **secrets_of(wall), alone=False)

    assert len(found) >= 30
    assert set(found.values()) <= DENIED


def test_the_agents_process_is_out_of_reach(wall: Wall) -> None:
    found = wall.attack("process")

    assert len(found) >= 20
    assert {name: error for name, error in found.items() if error not in DENIED} == {}


def test_nobody_takes_the_sockets_place(wall: Wall) -> None:
    found = wall.attack("sockets")

    assert {name: error for name, error in found.items() if error not in DENIED} == {}


def test_what_the_coordinator_did_not_sign_is_turned_away(wall: Wall) -> None:
    coordinator, manifest, world = wall.coordinator, wall.manifest, wall.world
    itself = Identity.generate()
    signature = itself.sign(MANIFEST_PURPOSE, manifest.content)
    own = Request(join=Join(manifest=manifest.content, signature=signature))
    true = coordinator.train(manifest, world, 3)
    now = time.time()

    envelopes = {
        "nothing": b"",
        "garbage": bytes(range(256)) * 64,
        "forged": coordinator.train(manifest, world, 3, identity=itself),
        "its own manifest": coordinator.seal(own, identity=itself),
        "its own manifest, as a site": coordinator.seal(own, identity=itself, sender="north"),
        "another payload": true[:200] + bytes([true[200] ^ 1]) + true[201:],
        "a changed signature": true[:-1] + bytes([true[-1] ^ 1]),
        "another site's": coordinator.train(manifest, world, 3, receiver="south"),
        "expired": coordinator.train(manifest, world, 3, sent=now - 900, expires=now - 1),
        "from the future": coordinator.train(manifest, world, 3, sent=now + 900, expires=now + 999),
    }
    found = wall.attack("messages", envelopes=_encoded(envelopes))

    expected = dict.fromkeys(envelopes, "INVALID_ARGUMENT")
    others = {"a long chunk": "RESOURCE_EXHAUSTED", "no chunk": "INVALID_ARGUMENT"}
    assert found == expected | others | {"another method": "UNIMPLEMENTED"}


def test_old_envelopes_bring_nothing_new(wall: Wall) -> None:
    _join, first, second = wall.sent[:3]

    found = wall.attack("messages", envelopes=_encoded({"an old one": first, "the last one": second}))

    assert found["an old one"] == "INVALID_ARGUMENT"
    assert found["the last one"] == "done"  # the reply that was kept: nothing is trained, or charged, again


def test_a_flood_only_lasts_as_long_as_it_lasts(wall: Wall) -> None:
    found = wall.attack("flood", deliveries=DELIVERIES)

    assert found == {"connections": "done", "deliveries": "done"}
    assert wall.relay(wall.sent[2]).trained.round == 2


@pytest.mark.parametrize("folder", [0o750, 0o755], ids=["as it is", "a folder open to all"])
def test_who_is_not_in_the_group_cannot_connect(wall: Wall, folder: int) -> None:
    wall.run.chmod(folder)
    try:
        found = wall.attack("connect", user=STRANGER, groups=())
    finally:
        wall.run.chmod(0o750)

    assert found["connect"] == "EACCES"
    assert wall.attack("connect") == {"connect": "done", "stat": "done"}


def test_the_same_attempts_succeed_where_there_is_no_wall(wall: Wall, tmp_path: Path) -> None:
    """The agent's own user can do all that the relay's can't: it is the wall that stops them."""
    owner = {"user": AGENT, "groups": (SOCKET_GROUP,)}
    read = wall.attack("reads", **secrets_of(wall), **owner)
    assert set(read.values()) == {"done"}
    process = wall.attack("reads", paths=[f"/proc/{wall.agent.pid}/environ"], **owner)
    assert set(process.values()) == {"done"}

    copy = wall.home.parent / "copy"
    shutil.copytree(wall.home, copy)
    for path in [copy, *copy.rglob("*")]:
        shutil.chown(path, AGENT, AGENT)
    files = [path for path in copy.rglob("*") if path.is_file()]
    written = wall.attack("writes", paths=files, folders=[copy], alone=True, **owner)
    assert set(written.values()) == {"done"}


class TestAfterwards:
    """Runs last: it alone changes something."""

    @pytest.fixture(autouse=True)
    def nothing_happened(self) -> None:
        """Something does."""

    def test_a_true_envelope_still_works(self, wall: Wall) -> None:
        before = _releases(wall)

        reply = wall.relay(wall.coordinator.train(wall.manifest, wall.world, 3))

        assert reply.trained.round == 3
        assert _releases(wall) == before + 1


def test_users_are_distinct() -> None:
    assert len({AGENT, RELAY, STRANGER, SOCKET_GROUP, 0}) == 5


def _encoded(envelopes: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(content).decode() for name, content in envelopes.items()}


def _releases(wall: Wall) -> int:
    entries = audit_ledger(wall.home / "ledger.db").entries
    return sum(isinstance(entry.event, Released) for entry in entries)
