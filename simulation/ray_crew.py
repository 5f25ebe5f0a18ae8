"""The actors of a run, who is asked to train which site, and what becomes of those that end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from client.work import Work
from privacy.errors import RunError
from protocol.plain_text import first_line
from protocol.processes.time_spent import Part, timed
from simulation.ray_actor import Assignment

log = logging.getLogger("confide.simulation")

# Batches that an actor has been given and not answered: while it trains one the next is on its way.
_AHEAD = 2
# Seconds that actors which load faster wait for the others, once: sites begin where they are to stay.
_FOR_OTHERS = 20.0


@dataclass(eq=False)
class _Actor:
    """An actor, and the works that are for it but not handed out yet."""

    handle: Any
    line: list[Work] = field(default_factory=list)
    given: int = 0
    examples: int = 0  # of the sites that it has trained


@dataclass(frozen=True, kw_only=True)
class _Batch:
    actor: _Actor
    works: Sequence[Work]


class Crew:
    """Actors that train sites, in batches of at most ``batch``, of one run.

    A site goes to the actor that has its examples. One that has nothing left to do takes sites from the one
    with the most left, and has their examples from then on. Raises RunError when no actor is left.
    """

    def __init__(self, handles: Sequence[Any], *, batch: int, patience: float) -> None:
        self._batch = batch
        self._ready: list[_Actor] = []
        self._of_site: dict[str, _Actor] = {}
        self._examples: dict[str, Any] = {}  # in the object store, by site
        self._adapter: tuple[NDArray[np.float32], Any] = np.zeros(0, np.float32), None
        self._out: dict[Any, _Batch] = {}
        self._patience = patience
        self._loading = {handle.load.remote(): _Actor(handle) for handle in handles}

    def train(self, works: Iterable[Work]) -> Iterator[tuple[Work, NDArray[np.float32] | bytes]]:
        """Each work with its update, or with the refusal that its site answers with, as they come.

        Works are made as there is somebody to train them: each has an adapter in it.
        """
        try:
            yield from self._train(iter(works))
        finally:  # whoever asks may leave before the end
            self._out.clear()
            for actor in self._ready:
                actor.line, actor.given = [], 0

    def _train(self, coming: Iterator[Work]) -> Iterator[tuple[Work, NDArray[np.float32] | bytes]]:
        more = True
        while more or self._out or any(actor.line for actor in self._ready):
            self._welcome()
            while more and self._waiting() < _AHEAD * self._batch * max(1, len(self._ready)):
                work = next(coming, None)
                more = work is not None
                if work is not None:
                    self._line_up(work)
                self._hand_out(whole=more)
            if self._out:
                yield from self._collect()

    def _waiting(self) -> int:
        return sum(len(actor.line) for actor in self._ready) + sum(len(b.works) for b in self._out.values())

    @timed(Part.WAITING)
    def _wait_for_actors(self) -> None:
        """Wait for the first that has loaded the model, and a little for the others.

        The cluster may be busy, or grow: whoever finds no room yet comes later.
        """
        while not self._ready:
            done, _ = ray.wait(list(self._loading), num_returns=1, timeout=self._patience)
            if not done:
                raise RunError(
                    f"no actor of the Ray cluster was ready within {self._patience:.0f} s: ray status says "
                    "whether it has room"
                )
            self._welcome()
        if self._loading:
            ray.wait(list(self._loading), num_returns=len(self._loading), timeout=_FOR_OTHERS)
            self._welcome()

    def _welcome(self) -> None:
        """Take in the actors that have loaded the model since."""
        refs = list(self._loading)
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0) if refs else ([], [])
        for ref in done:
            actor = self._loading.pop(ref)
            try:
                reason = ray.get(ref)
            except ray.exceptions.RayError as error:
                reason = _why(error)
            if reason is None:
                self._ready.append(actor)
            elif self._ready or self._loading:
                log.warning("an actor is left out: %s", reason)
            else:
                raise RunError(f"no actor of the Ray cluster can train this job: {reason}")

    def _line_up(self, work: Work) -> None:
        if not self._ready:
            self._wait_for_actors()
        site = work.receipt.site
        actor = self._of_site.get(site)
        if actor is None:
            actor = self._of_site[site] = min(self._ready, key=lambda actor: actor.examples)
            actor.examples += len(work.session.materials.examples)
        actor.line.append(work)

    def _hand_out(self, *, whole: bool) -> None:
        """Give actors that can take one their next batch; ``whole`` ones alone if more works are coming."""
        for actor in self._ready:
            while actor.given < _AHEAD and len(actor.line) >= (self._batch if whole else 1):
                works, actor.line = actor.line[: self._batch], actor.line[self._batch :]
                self._give(actor, works)
        for actor in self._ready:
            if not whole and not actor.given:
                self._take_over(actor)

    def _take_over(self, actor: _Actor) -> None:
        """Let an actor that has nothing left train the end of the longest line, if there is any."""
        busiest = max(self._ready, key=lambda other: len(other.line))
        kept = max(0, len(busiest.line) - self._batch)
        taken, busiest.line = busiest.line[kept:], busiest.line[:kept]
        for work in taken:
            self._of_site[work.receipt.site] = actor
        if taken:
            self._give(actor, taken)

    def _give(self, actor: _Actor, works: Sequence[Work]) -> None:
        asked = [self._assignment(work) for work in works]
        ref = actor.handle.train.remote(asked, works[0].request.round)
        self._out[ref] = _Batch(actor=actor, works=works)
        actor.given += 1

    def _assignment(self, work: Work) -> Assignment:
        site, session = work.receipt.site, work.session
        if site not in self._examples:
            self._examples[site] = ray.put(session.materials.examples)
        start = work.start
        # One for all sites of a round, unless each has tensors of its own.
        if not np.array_equal(start.adapter, self._adapter[0]):
            self._adapter = start.adapter, ray.put(start.adapter)
        return Assignment(
            site=site,
            adapter=self._adapter[1],
            drift=start.drift,
            correlated=work.correlated,
            adaptive=start.adaptive,
            examples=self._examples[site],
            plan=work.plan,
            training=work.training,
            hidden=session.hidden,
            longest=work.longest,
        )

    def _collect(self) -> Iterator[tuple[Work, NDArray[np.float32] | bytes]]:
        """What is done, once anything is; an actor that has ended leaves its works to the others."""
        with timed(Part.WAITING):
            done, _ = ray.wait([*self._out, *self._loading], num_returns=1)
        for ref in done:
            batch = self._out.pop(ref, None)
            if batch is None:  # one that has loaded the model
                continue
            try:
                found = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._lose(batch.actor, batch.works, error)
            else:
                batch.actor.given -= 1
                self._hand_out(whole=False)
                yield from zip(batch.works, found, strict=True)

    def _lose(self, actor: _Actor, works: Sequence[Work], error: Exception) -> None:
        """Nothing of these works has left, and what they cost was reserved once: others may train them."""
        if actor in self._ready:
            log.warning("an actor has ended: %s", _why(error))
            self._ready.remove(actor)
        self._of_site = {site: other for site, other in self._of_site.items() if other is not actor}
        if not self._ready and not self._loading:
            raise RunError(f"the last actor of the Ray cluster has ended: {_why(error)}") from error
        for work in [*works, *actor.line]:
            self._line_up(work)
        actor.line = []
        self._hand_out(whole=False)


def _why(error: Exception) -> str:
    """What Ray says of an actor that ended, or what an actor raised, in a line."""
    return first_line(error.cause if isinstance(error, ray.exceptions.RayTaskError) else error)
