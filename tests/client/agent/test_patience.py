"""Who is refused again and again waits longer and longer, and nobody else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.agent.mailbox import Mailbox
from client.agent.patience import FREE, LONGEST, Patience
from client.agent.worker import FullError, Worker
from privacy.identity import Identity
from protocol.messages.confide_pb2 import Reply
from tests.client.agents import SITE, Coordinator, Echo


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_few_refusals_cost_no_time() -> None:
    patience = Patience(Clock())
    for _ in range(FREE):
        patience.refused()
        assert patience.wait() == 0.0


def test_each_further_refusal_doubles_the_wait_up_to_five_minutes() -> None:
    clock = Clock()
    patience = Patience(clock)
    waits = []
    for _ in range(FREE + 12):
        patience.refused()
        waits.append(patience.wait())
        clock.now += waits[-1]
        assert patience.wait() == 0.0
    assert waits[FREE:] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    for _ in range(2000):
        patience.refused()
    assert patience.wait() == LONGEST


def test_an_accepted_request_begins_anew() -> None:
    patience = Patience(Clock())
    for _ in range(FREE + 3):
        patience.refused()
    assert patience.wait() > 0.0
    patience.accepted()
    assert patience.wait() == 0.0
    patience.refused()
    assert patience.wait() == 0.0


class Site:
    """An agent's worker with an echo for a site, and a clock that only the test moves."""

    def __init__(self, folder: Path) -> None:
        self.coordinator, self.echo, self.clock = Coordinator(), Echo(), Clock()
        self.mailbox = Mailbox(
            folder, site=SITE, identity=Identity.generate(), coordinator=self.coordinator.identity.public
        )
        self.worker = Worker(self.mailbox, queue=4, patience=Patience(self.clock))
        self.worker.start(self.echo)

    def ask(self, payload: bytes, *, run: str = "run", refuse: bool = False) -> Reply:
        """A reply; raises FullError for one that is to come later."""
        self.echo.refuse = refuse
        opened = self.mailbox.open_request(self.coordinator.seal(payload, run=run))
        return Reply.FromString(self.worker.submit(opened).result(20))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.worker.stop()
    assert site.worker.join(20)


def test_whoever_is_refused_again_and_again_is_told_to_come_later(site: Site) -> None:
    """Whatever runs it asks for; and the site itself is not asked meanwhile."""
    for number in range(FREE + 1):
        site.ask(b"%d" % number, run=f"run-{number}", refuse=True)
    with pytest.raises(FullError, match="the last 6 requests were refused: send this one again in 1 s"):
        site.ask(b"more", run="yet another")
    assert len(site.echo.answered) == FREE + 1
    site.clock.now += 1.0
    site.ask(b"more", run="yet another", refuse=True)
    site.clock.now += 1.0
    with pytest.raises(FullError, match="in 1 s"):
        site.ask(b"and more")
    assert site.worker.status().state == "idle"
    site.clock.now += 1.0
    site.ask(b"and more")
    for number in range(FREE):
        site.ask(b"again %d" % number, refuse=True)
    site.ask(b"and at once")


def test_a_federation_with_a_join_that_is_refused_notices_nothing(site: Site) -> None:
    for run in range(20):
        site.ask(b"join", run=f"run-{run}", refuse=True)
        for number in range(3):
            site.ask(b"train %d" % number, run=f"other-{run}")
    assert len(site.echo.answered) == 80


def test_an_answer_that_is_only_repeated_does_not_begin_anew(site: Site) -> None:
    """Else one allowed request, sent again in between, would be a way around the wait."""
    site.ask(b"allowed")
    for number in range(FREE):
        site.ask(b"%d" % number, refuse=True)
        site.ask(b"allowed")
    assert len(site.echo.answered) == 1 + FREE
    site.ask(b"once more", refuse=True)
    with pytest.raises(FullError):
        site.ask(b"allowed")


def test_a_site_that_lost_its_secrets_wants_the_next_request_at_once(site: Site) -> None:
    for number in range(3 * FREE):
        site.echo.lost = True
        site.ask(b"%d" % number, refuse=True)
    assert len(site.echo.answered) == 3 * FREE
