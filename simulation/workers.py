"""Several processes that train sites side by side on one machine, without Ray.

Each worker loads the job's model, answers for the same sites all through the run, and computes with as
many threads as the job says, or one: so does a keyed run without workers, and the adapter is the same, bit
for bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from threading import BoundedSemaphore
from typing import BinaryIO, cast

from flwr.app import Message

from privacy.errors import RunError
from protocol.job.job import Job
from protocol.messages.flower import unwrap, wrap
from protocol.processes import tether
from protocol.processes.exit_code import how_it_ended
from protocol.processes.frames import read_frame, write_frame
from protocol.processes.time_spent import Part, running_clock, timed
from runs.run_folder import RunFolder
from simulation.grid import InProcessGrid
from simulation.round_progress import RoundProgress
from simulation.simulated_federation import World


class Worker:
    """One worker process. On Linux it ends with this one, however that ends."""

    def __init__(self, job: Job, folder: RunFolder, *, profile: bool = False) -> None:
        self._profile = profile
        self._spent: list[dict[Part, float]] = []
        self._log = folder.path / "run.log"
        command = [sys.executable, "-P", "-m", "simulation.worker_process"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [sys.executable, "-I", tether.__file__, str(os.getpid()), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # What this process imports, wherever it is; and Ctrl-C reaches it by way of this one.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        asked = {
            "job": job.model_dump(mode="json"),
            "folder": str(folder.path.resolve()),
            "profile": profile,
        }
        with suppress(BrokenPipeError):  # whoever asks it first is told
            write_frame(self._requests, json.dumps(asked).encode())

    def ask(self, site: str, request: bytes) -> bytes:
        """A site's answer. Raises RunError if the process has ended."""
        with suppress(BrokenPipeError):
            write_frame(self._requests, site.encode())
            write_frame(self._requests, request)
        answer = read_frame(self._answers)
        spent = read_frame(self._answers) if self._profile else b""
        if answer is None or spent is None:
            how = how_it_ended(self._process.wait())
            raise RunError(
                f"the worker process of {site} ended {how}: {self._log} says more; --workers 1 needs the "
                "least memory"
            )
        if spent:
            self._spent.append({Part(name): seconds for name, seconds in json.loads(spent).items()})
        return answer

    def take_spent(self) -> list[dict[Part, float]]:
        """What each answer since the last call took: seconds by part."""
        spent, self._spent = self._spent, []
        return spent

    def end(self) -> None:
        """End the process, in the middle of what it does."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        with suppress(BrokenPipeError):
            self._requests.close()


class WorkersGrid(InProcessGrid):
    """Delivers each message to the worker of its site: each has one at a time, and all work at once."""

    def __init__(
        self, places: Sequence[tuple[str, Worker]], *, progress: RoundProgress | None = None
    ) -> None:
        super().__init__({}, progress=progress)
        self._places = dict(enumerate(places, start=1))
        self._workers = {id(worker): worker for _, worker in places}
        self._lines = {key: ThreadPoolExecutor(max_workers=1) for key in self._workers}
        # Each message has an adapter in it: no more are made than will soon be on their way.
        self._room = BoundedSemaphore(2 * len(self._workers))

    def get_node_ids(self) -> Iterable[int]:
        return list(self._places)

    def _deliver(self, messages: Iterable[Message]) -> Iterator[str]:
        asked: dict[Future[bytes], Message] = {}
        for message in messages:
            node = message.metadata.dst_node_id
            site, worker = self._places[node]
            with timed(Part.WAITING):
                self._room.acquire()
            answer = self._lines[id(worker)].submit(worker.ask, site, unwrap(message.content))
            answer.add_done_callback(partial(self._has_answered, node))
            asked[answer] = message
            yield from self._taken(asked, [one for one in asked if one.done()])
        while asked:
            with timed(Part.WAITING):
                done = wait(asked, return_when=FIRST_COMPLETED).done
            yield from self._taken(asked, done)
        self._count_work()

    def _taken(self, asked: dict[Future[bytes], Message], done: Iterable[Future[bytes]]) -> Iterator[str]:
        """Keep the answers that are there, and wait for them no longer."""
        for answer in done:
            yield self.keep(Message(wrap(answer.result()), reply_to=asked.pop(answer)))

    def _has_answered(self, node: int, _answer: Future[bytes]) -> None:
        self._room.release()
        self.answered(node)

    def _count_work(self) -> None:
        """Of what was waited for, count what workers were at: each is one of so many at work at once."""
        spent = [parts for worker in self._workers.values() for parts in worker.take_spent()]
        clock = running_clock()
        if clock is not None:
            clock.credit(
                {part: sum(p.get(part, 0.0) for p in spent) / len(self._workers) for part in Part},
                of=Part.WAITING,
            )

    def close(self) -> None:
        """Hand out nothing more."""
        for line in self._lines.values():
            line.shutdown(wait=False, cancel_futures=True)


@contextmanager
def worker_grid(
    world: World, folder: RunFolder, *, workers: int, progress: RoundProgress | None = None
) -> Iterator[WorkersGrid]:
    """A grid over so many workers, no more than sites, who share the examples; they end with the block."""
    device = world.job.device.model_copy(update={"threads": world.job.device.threads or 1})
    job = world.job.model_copy(update={"device": device})
    shares = deal(world.sizes, workers)
    running: list[tuple[Worker, Sequence[str]]] = []
    profile = running_clock() is not None
    try:
        running += [(Worker(job, folder, profile=profile), share) for share in shares]
        of_site = {site: worker for worker, share in running for site in share}
        grid = WorkersGrid([(site, of_site[site]) for site in world.site_names], progress=progress)
        try:
            yield grid
        finally:
            grid.close()
    finally:
        for worker, _ in running:
            worker.end()


def deal(sizes: dict[str, int], count: int) -> list[list[str]]:
    """Sites by worker: the largest first, each to the worker with the fewest examples so far."""
    shares: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for site in sorted(sizes, key=lambda name: -sizes[name]):
        least = loads.index(min(loads))
        shares[least].append(site)
        loads[least] += sizes[site]
    return shares
