"""Who of the actors is asked to train which site, with a Ray that does as the test says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray")

import ray

from client.local_round import Start
from privacy.errors import RunError
from simulation import ray_crew
from simulation.ray_crew import Crew

ADAPTER = np.arange(3, dtype=np.float32)


class ActorDied(ray.exceptions.RayError):
    """What Ray raises for a call to an actor that has ended."""


class FakeRay:
    """Calls are done in the order in which they were made; ``slow`` actors' ones last."""

    exceptions = ray.exceptions

    def __init__(self) -> None:
        self.put_in: list[object] = []
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.late: set[str] = set()
        self.dead: set[str] = set()
        self.slow: set[str] = set()

    def put(self, value: object) -> int:
        self.put_in.append(value)
        return len(self.put_in) - 1

    def wait(self, refs: list, *, num_returns: int, timeout: float | None = None) -> tuple[list, list]:
        able = [ref for ref in refs if ref.what is not None or ref.actor not in self.late]
        able.sort(key=lambda ref: ref.actor in self.slow)
        return able[:num_returns], [ref for ref in refs if ref not in able[:num_returns]]

    def get(self, ref: SimpleNamespace) -> object:
        if ref.actor in self.dead:
            raise ActorDied("the node died")
        if ref.what is None:
            return "no such model" if ref.actor.startswith("bad") else None
        return [f"{ref.actor} trained {one.site}".encode() for one in ref.what]

    def handle(self, name: str) -> SimpleNamespace:
        def train(assignments: list, number: int) -> Ref:
            assert number == 7
            self.asked.append((name, tuple(one.site for one in assignments)))
            return Ref(name, assignments)

        return SimpleNamespace(
            load=SimpleNamespace(remote=lambda: Ref(name, None)), train=SimpleNamespace(remote=train)
        )


class Ref:
    """One call."""

    def __init__(self, actor: str, what: list | None) -> None:
        self.actor, self.what = actor, what


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    found = FakeRay()
    monkeypatch.setattr(ray_crew, "ray", found)
    return found


def crew(fake: FakeRay, *names: str, batch: int = 2) -> Crew:
    return Crew([fake.handle(name) for name in names], batch=batch, patience=5)


def works(sites: str, *, size: int = 10, adapter: bytes = b"start") -> Iterator[SimpleNamespace]:
    for site in sites:
        yield SimpleNamespace(
            receipt=SimpleNamespace(site=site),
            session=SimpleNamespace(materials=SimpleNamespace(examples=[site] * size), hidden=False),
            plan="plan",
            training="training",
            request=SimpleNamespace(round=7, adapter=adapter),
            start=Start(adapter=ADAPTER),
            longest=60.0,
            correlated=None,
        )


def trained(crew: Crew, sites: str) -> dict[str, str]:
    """Which actor trained each site."""
    found = [(work.receipt.site, answer.decode()) for work, answer in crew.train(works(sites))]
    assert Counter(site for site, _ in found) == Counter(sites)
    actors = {}
    for site, answer in found:
        actor, said = answer.split(" trained ")
        assert said == site
        actors[site] = actor
    return actors


def test_a_site_stays_with_the_actor_that_has_its_examples(fake: FakeRay) -> None:
    those = crew(fake, "p", "q")
    first = trained(those, "abcdefgh")
    assert Counter(first.values()) == {"p": 4, "q": 4}
    assert max(len(sites) for _, sites in fake.asked) == 2
    fake.asked.clear()
    assert trained(those, "hgfedcba") == first
    assert sum(len(sites) for _, sites in fake.asked) == 8
    # Examples travel once, and so does an adapter that all sites of a round begin with.
    assert sum(value is ADAPTER for value in fake.put_in) == 1
    assert len(fake.put_in) == 9


def test_who_has_nothing_left_takes_over_from_who_has_the_most(fake: FakeRay) -> None:
    those = crew(fake, "p", "q", batch=1)
    fake.slow = {"q"}
    found = trained(those, "abcdefgh")
    assert Counter(found.values()) == {"p": 6, "q": 2}  # two batches were on their way to it
    assert trained(those, "abcdefgh").keys() == found.keys()


def test_no_more_works_are_begun_than_there_are_hands(fake: FakeRay) -> None:
    begun = []

    def counted() -> Iterator[SimpleNamespace]:
        for work in works("abcdefghijkl"):
            begun.append(work)
            yield work

    answers = crew(fake, "p", "q", batch=1).train(counted())
    next(answers)
    assert len(begun) == 4
    assert len(list(answers)) == 11


def test_who_leaves_before_the_end_leaves_nothing_behind(fake: FakeRay) -> None:
    those = crew(fake, "p", "q", batch=1)
    answers = those.train(works("abcdefgh"))
    next(answers)
    answers.close()
    assert trained(those, "ijkl").keys() == set("ijkl")


def test_works_of_an_actor_that_ends_go_to_the_others(
    fake: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    those = crew(fake, "p", "q")
    trained(those, "abcdefgh")
    fake.dead = {"q"}
    assert set(trained(those, "abcdefgh").values()) == {"p"}
    assert "an actor has ended: the node died" in caplog.text
    fake.dead = {"p", "q"}
    with pytest.raises(RunError, match=r"^the last actor of the Ray cluster has ended: the node died$"):
        trained(those, "ab")


def test_an_actor_that_comes_late_is_welcome(fake: FakeRay) -> None:
    fake.late = {"q"}
    those = crew(fake, "p", "q", batch=1)
    assert set(trained(those, "abcd").values()) == {"p"}
    fake.late = set()
    assert set(trained(those, "abcdefgh").values()) == {"p", "q"}


def test_an_actor_that_cannot_load_the_model_is_left_out(
    fake: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(trained(crew(fake, "bad", "p"), "abcd").values()) == {"p"}
    assert "an actor is left out: no such model" in caplog.text
    with pytest.raises(RunError, match=r"^no actor of the Ray cluster can train this job: no such model$"):
        trained(crew(fake, "bad", "bad-too"), "ab")


def test_a_cluster_without_room_is_told(fake: FakeRay) -> None:
    fake.late = {"p"}
    with pytest.raises(RunError, match="no actor of the Ray cluster was ready within 5 s"):
        trained(crew(fake, "p"), "a")


def test_nobody_is_waited_for_where_nothing_is_to_be_trained(fake: FakeRay) -> None:
    fake.late = {"p"}
    assert list(crew(fake, "p").train(works(""))) == []
