"""One round of the same work by Confide and its peers: seconds a round.

The work: all-MiniLM with LoRA of rank 8 on query and value of all layers, or with ``--layers top2`` of the
top two of six, both halves and the head trained; 100 sites of 64 tweets of at most 32 tokens, of which 20
take part in a round with 4 steps of 16 each, float32; then the mean adapter's loss on 53 other tweets.
``loop`` is plain PyTorch without a framework: the same steps one after another, batches padded to their
longest text. ``ours`` clips and adds no noise, ``ours_dp`` adds noise; both draw Poisson samples of 16 on
average. ``flower`` is the loop's training as the client of Flower's own engine on Ray, which keeps the
model in its actors, a core each. ``pfl`` is pfl-research's simulated backend (``race_pfl.py``), in an
environment that is made for it once, in the user's cache, and borrows torch and all else from this one.

Peers take turns, round by round. The first round pays for what later ones find ready, and is not counted.
The last line has medians, wall clock; with it, on stderr, processor seconds of each peer's processes, which
other work on the machine disturbs less. A peer that was not asked for, or that cannot run, is null.

Run: PYTHONPATH=. python benchmarks/race.py [--json] [--rounds N] [--layers all|top2]
[--peers loop,flower,pfl] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from race_environment import UnavailableError, python_with_pfl
from race_work import DONE, SITES, Lap, cohort, next_turn, the_job, train_plainly

from protocol.job.job import Job
from protocol.processes.flower_internals import run_simulation
from runs.progress import Silence
from runs.run_folder import RoundRecord
from simulation.simulate import simulate
from simulation.simulated_federation import World

NAMES = ("loop", "ours", "ours_dp", "flower", "pfl")
_WORLDS: dict[str, World] = {}


class _Turns(Silence):
    """Waits after each round of ours until it is its turn again."""

    def round(self, _record: RoundRecord) -> None:
        next_turn()


def ours(lap: Lap, mechanism: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        simulate(the_job(lap, mechanism=mechanism), runs=Path(folder), workers=1, progress=_Turns())


def loop(lap: Lap) -> None:
    world = World(the_job(lap))
    adapter = world.initial_adapter
    for name in world.site_names:
        world.examples(name)
    for number in range(lap.rounds):
        found = [train_plainly(world, site, adapter, number) for site in cohort(world.site_names, number)]
        adapter = np.mean(found, axis=0, dtype=np.float32)
        world.workplace.evaluator.score(adapter)
        next_turn()


def flower(lap: Lap) -> None:
    """The loop's training by Flower's engine, one site a message; it runs from this folder."""
    job = the_job(Lap(rounds=lap.rounds, layers=lap.layers, threads=1))
    world, wrong = World(job), list[str]()
    table, place = job.model_dump(mode="json"), str(Path(__file__).parent)
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        # Actors find this file by its folder, and the house by theirs, PYTHONPATH.
        sys.path.insert(0, place)
        from race import trained_by

        site = f"site-{int(context.node_config['partition-id']) + 1}"
        return Message(trained_by(message.content, table, site), reply_to=message)

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        while len(list(grid.get_node_ids())) < SITES:
            time.sleep(0.05)
        nodes, adapter = sorted(grid.get_node_ids()), world.initial_adapter
        for number in range(lap.rounds):
            asked = []
            for node in cohort(nodes, number):
                content = RecordDict({"adapter": ArrayRecord({"adapter": Array(adapter)})})
                asked.append(Message(content, node, MessageType.TRAIN, group_id=str(number)))
            answers = list(grid.send_and_receive(asked))
            wrong.extend(str(answer.error) for answer in answers if answer.has_error())
            if wrong:
                return
            found = [answer.content["adapter"]["adapter"].numpy() for answer in answers]
            adapter = np.mean(found, axis=0, dtype=np.float32)
            world.workplace.evaluator.score(adapter)
            next_turn()

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app=server, client_app=client, num_supernodes=SITES, backend_config=resources)
    if wrong:
        raise RuntimeError(f"Flower's engine: {wrong[0]}")


def trained_by(content: RecordDict, table: dict[str, object], site: str) -> RecordDict:
    """A client's answer: an actor makes the model once, and reads all sites' examples then."""
    if "world" not in _WORLDS:
        _WORLDS["world"] = World(Job.model_validate(table))
        for name in _WORLDS["world"].site_names:
            _WORLDS["world"].examples(name)
    adapter = content["adapter"]["adapter"].numpy()
    found = train_plainly(_WORLDS["world"], site, adapter, 0)
    return RecordDict({"adapter": ArrayRecord({"adapter": Array(found)})})


RUNNERS: dict[str, Callable[[Lap], None]] = {
    "loop": loop,
    "ours": lambda lap: ours(lap, "none"),
    "ours_dp": lambda lap: ours(lap, "gaussian"),
    "flower": flower,
}


class Racer:
    """A peer's process, and what its rounds took."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name, self._command = name, command
        self.seconds, self.processor = list[float](), list[float]()
        self._process: subprocess.Popen[str] | None = None

    def round(self) -> None:
        """Let it do one round. Raises RuntimeError if it ends instead."""
        began, used = time.perf_counter(), self._used()
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        else:
            assert self._process.stdin is not None
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == DONE:
                break
        else:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()} before its round was done")
        self.seconds.append(time.perf_counter() - began)
        self.processor.append(self._used() - used)

    def end(self, *, rounds: int) -> None:
        """Let it end after all its rounds; end it where some are left."""
        if self._process is None:
            return
        if len(self.seconds) < rounds:
            self._process.kill()
        self._process.communicate()

    def _used(self) -> float:
        """Processor seconds so far of its process and all that this started and that still runs."""
        if self._process is None:
            return 0.0
        total, mine = 0.0, psutil.Process(self._process.pid)
        for process in (mine, *mine.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total


def racers(lap: Lap, peers: list[str]) -> list[Racer]:
    """Those that were asked for and can run; ours in any case."""
    settings = [str(lap.rounds), lap.layers, str(lap.threads)]
    found = []
    for name in NAMES:
        if name == "pfl" and name in peers:
            try:
                python = python_with_pfl()
            except UnavailableError as error:
                print(f"pfl: null, since {error}", file=sys.stderr)
                continue
            found.append(Racer(name, [str(python), str(Path(__file__).parent / "race_pfl.py"), *settings]))
        elif name.startswith("ours") or name in peers:
            found.append(Racer(name, [sys.executable, __file__, "--one", name, *settings]))
    return found


def race(found: list[Racer], rounds: int) -> None:
    """All rounds in turns, to and fro, so that none always comes first."""
    try:
        for number in range(rounds):
            for racer in found if number % 2 == 0 else found[::-1]:
                racer.round()
                took, used = racer.seconds[-1], racer.processor[-1]
                print(
                    f"round {number}, {racer.name}: {took:.2f} s, of a processor {used:.2f} s",
                    file=sys.stderr,
                )
    finally:
        for racer in found:
            racer.end(rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds after the first")
    parser.add_argument("--layers", choices=["all", "top2"], default="all", help="layers with LoRA")
    parser.add_argument("--peers", default="loop,flower,pfl", help="of loop, flower and pfl")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="torch's threads, all cores by default; on a busy machine 1, since threads that wait spin",
    )
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        name, rounds, layers, threads = asked.one
        RUNNERS[name](Lap(rounds=int(rounds), layers=layers, threads=int(threads)))
        return
    lap = Lap(rounds=asked.rounds + 1, layers=asked.layers, threads=asked.threads)
    found = racers(lap, asked.peers.split(","))
    race(found, lap.rounds)
    used = {racer.name: round(statistics.median(racer.processor[1:]), 3) for racer in found}
    print(f"processor seconds a round: {json.dumps(used)}", file=sys.stderr)
    seconds: dict[str, float | None] = dict.fromkeys(NAMES)
    seconds |= {racer.name: round(statistics.median(racer.seconds[1:]), 3) for racer in found}
    print(json.dumps(seconds) if asked.json else "\n".join(f"{k}: {v}" for k, v in seconds.items()))


if __name__ == "__main__":
    main()
