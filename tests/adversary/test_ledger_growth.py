"""A coordinator with the pinned key makes a site write: what can grow, uncharged, has a bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.agent.site_host import SiteHost
from client.custody.home import Home
from client.custody.site_file import read_site_file
from client.planning import plan_here
from privacy.canonical import canonical_json
from privacy.ledger.entries import Refused
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.messages.confide_pb2 import Join, Reply, Request
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests import tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.sites import approve, charges

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


class Attack:
    """A site, and a coordinator that may sign what it likes."""

    def __init__(self, home: Path, folder: Path, manifest: Manifest, **changes: Any) -> None:
        self.coordinator = Coordinator()
        path = write_site(home, folder, self.coordinator.identity, **changes)
        self.home = home
        self.manifest = manifest
        self.resident = SiteHost(home, read_site_file(path), planner=plan_here)
        self.resident.check_ledger()

    def ask(self, envelope: bytes) -> bytes:
        public = self.coordinator.identity.public
        opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
        return self.resident.answer(opened)

    def join(self, run: str, **changes: Any) -> bytes:
        """Ask to join with the manifest as JSON, keys of its job changed whatever a job allows."""
        table = json.loads(self.manifest.content) | {"run": run}
        for section, values in changes.items():
            if section in table:
                table[section] = values
            else:
                table["job"][section] |= values
        content = canonical_json(table)
        signature = self.coordinator.identity.sign(MANIFEST_PURPOSE, content)
        request = Request(join=Join(manifest=content, signature=signature))
        return self.ask(self.coordinator.seal(request, run=run))

    @property
    def size(self) -> int:
        """Bytes of all that is in the home."""
        return sum(path.stat().st_size for path in self.home.rglob("*") if path.is_file())

    def refusals(self) -> list[Refused]:
        entries = audit_ledger(self.home / "ledger.db").entries
        return [entry.event for entry in entries if isinstance(entry.event, Refused)]


@pytest.fixture
def make(tmp_path: Path, tiny_folder: Path, world: World) -> Any:
    return lambda **changes: Attack(tmp_path / "home", tiny_folder, world.manifest("run"), **changes)


HUGE = "x" * (8 * MEGABYTE)
LONG = {
    "a module": {"adapter": {"target_modules": [HUGE]}},
    "many modules": {"adapter": {"target_modules": ["query"] * MEGABYTE}},
    "layers": {"adapter": {"layers_to_transform": HUGE}},
    "many layers": {"adapter": {"layers_to_transform": [1] * MEGABYTE}},
    "a source": {"model": {"source": HUGE}},
    "weights": {"model": {"gguf": HUGE}},
    "an alias": {"data": {"alias": HUGE}},
    "a column": {"data": {"text": HUGE}},
    "an encoding": {"data": {"encoding": HUGE}},
    "a label": {"data": {"labels": ["no", HUGE]}},
    "many labels": {"data": {"labels": ["no"] * MEGABYTE}},
    "a site's column": {"federation": {"partition": {"column": HUGE}}},
    "an unknown key": {"data": {HUGE: 1}},
    "an odd value": {"training": {"optimizer": HUGE}},
}


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("changes", LONG.values(), ids=list(LONG))
def test_long_strings_are_neither_kept_nor_told_back(make: Any, changes: Any) -> None:
    attack = make()
    before = attack.size
    replies = [attack.join(f"run-{number}", **changes) for number in range(3)]
    assert all(Reply.FromString(reply).HasField("refused") for reply in replies)
    assert max(map(len, replies)) < 2000
    assert attack.size - before < 100_000


def test_what_is_just_short_enough_is_not_quoted_either(make: Any) -> None:
    attack = make()
    changes = {
        "a module": {"adapter": {"target_modules": ["m" * 200] * 1000}},
        "a source": {"model": {"source": "s" * 4096}},
        "labels": {"labels": ["l" * 400 + str(n) for n in range(1000)]},
    }
    before = attack.size
    for number, change in enumerate(changes.values()):
        reply = attack.join(f"run-{number}", **change)
        assert Reply.FromString(reply).HasField("refused")
        assert len(reply) < 2000
    assert attack.size - before < 200_000


def test_refused_joins_without_end_come_to_an_end_in_the_ledger(make: Any) -> None:
    attack = make()
    for number in range(150):
        attack.join(f"run-{number}", privacy={"epsilon": 90.0})
    sizes = [attack.size]
    for number in range(150, 300):
        reply = Reply.FromString(attack.join(f"run-{number}", privacy={"epsilon": 90.0}))
        assert "budget.epsilon_per_run" in reply.refused.reason
    sizes.append(attack.size)
    assert len(attack.refusals()) < 100
    assert sizes[1] == sizes[0]


def test_one_run_does_not_fill_the_ledger_for_the_others(make: Any) -> None:
    attack = make()
    for number in range(40):
        attack.join("noisy", privacy={"epsilon": 90.0 + number / 100})
    attack.join("other", privacy={"epsilon": 90.0})
    refused = [event.run for event in attack.refusals()]
    assert refused.count("noisy") < 20
    assert refused[-1] == "other"


def test_after_something_was_accepted_refusals_are_written_again(make: Any, world: World) -> None:
    attack = make()
    for number in range(120):
        attack.join(f"run-{number}", privacy={"epsilon": 90.0})
    count = len(attack.refusals())
    assert Reply.FromString(attack.join("run")).HasField("joined")
    trained = attack.ask(attack.coordinator.train(attack.manifest, world, 1))
    assert Reply.FromString(trained).HasField("trained")
    attack.join("late", privacy={"epsilon": 90.0})
    assert [event.run for event in attack.refusals()][count:] == ["late"]


def test_manifests_that_wait_make_room_for_later_ones(make: Any) -> None:
    attack = make(rules={"approval": "manual"})
    for number in range(60):
        reply = Reply.FromString(attack.join(f"run-{number:02}"))
        assert "waits for the custodian" in reply.refused.reason
    files = list((attack.home / "pending").iterdir())
    assert len(files) <= 2 * 16
    # Whoever asked last is the one that the custodian is waiting to see.
    approve(Home(attack.home), "run-59")
    assert Reply.FromString(attack.join("run-59")).HasField("joined")
    assert Reply.FromString(attack.join("run-00")).HasField("refused")
    assert "run-00" in [manifest.run for manifest in Home(attack.home).manifests(pending=True)]


@pytest.mark.exhaustive
def test_runs_that_join_and_never_train_make_room_for_later_ones(make: Any, world: World) -> None:
    attack = make()
    charged = attack.manifest
    assert Reply.FromString(attack.join("run")).HasField("joined")
    assert Reply.FromString(attack.ask(attack.coordinator.train(charged, world, 1))).HasField("trained")
    for number in range(40):
        assert Reply.FromString(attack.join(f"run-{number:02}")).HasField("joined")
    for folder, most in (("manifests", 2 * 33), ("secrets", 32), ("outbox", 0)):
        place = attack.home / folder
        assert len(list(place.iterdir()) if place.exists() else []) <= most, folder
    # What was charged for is never forgotten, and who was joins anew.
    assert Reply.FromString(attack.ask(attack.coordinator.train(charged, world, 2))).HasField("trained")
    assert len(charges(attack.home)) == 2
    assert Reply.FromString(attack.join("run-00")).HasField("joined")
