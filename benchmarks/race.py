"""One round of the same work by Confide and its peers: seconds a round.

The work: all-MiniLM with LoRA of rank 8 on query and value of all layers, both halves and the head
trained; 20 sites of 64 tweets of at most 32 tokens, 4 steps of 16 a site, float32; then the mean
adapter's loss on 53 other tweets. ``loop`` is plain PyTorch without sites: the same steps one after
another, batches padded to their longest text. ``ours`` clips and adds no noise, ``ours_dp`` adds noise;
both draw Poisson samples of 16 on average. ``flower`` is the loop's training as the client of Flower's
own engine on Ray, which keeps the model in its actors, a core each. Medians of all rounds but the
first, which pays for what later ones find ready. ``pfl`` is null: pfl-research is not run yet.

Run: PYTHONPATH=. python benchmarks/race.py [--json] [--rounds N] [--peers loop,flower,pfl]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from protocol.job.job import Job
from protocol.processes.flower_internals import run_simulation
from runs.progress import Silence
from runs.run_folder import RoundRecord
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tasks.registry import read_job

SITES, STEPS, BATCH = 20, 4, 16
_WORLDS: dict[str, World] = {}


def the_job(*, mechanism: str, rounds: int) -> Job:
    """The demo's job with the race's work."""
    text = Path("examples/tweets.toml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("layers_to_transform")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "race.toml"
        path.write_text("\n".join(lines).replace('name = "fedsvd"', 'name = "lora"'))
        settings = [
            *("data.limit=1334", f"federation.sites={SITES}", "adapter.rank=8", "adapter.alpha=8"),
            *(f"training.rounds={rounds}", f"training.local_steps={STEPS}", f"training.batch_size={BATCH}"),
            *(f"training.physical_batch_size={BATCH}", "training.learning_rate=0.1"),
            *("device.precision=float32", f"privacy.mechanism={mechanism}"),
            *("privacy.epsilon=8", "privacy.delta=1e-3"),
        ]
        return read_job(path, settings=settings)


class _Stamps(Silence):
    """When rounds ended."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def round(self, _record: RoundRecord) -> None:
        self.at.append(time.perf_counter())


def ours(mechanism: str, rounds: int) -> list[float]:
    stamps = _Stamps()
    with tempfile.TemporaryDirectory() as folder:
        simulate(the_job(mechanism=mechanism, rounds=rounds), runs=Path(folder), progress=stamps)
    return _between(stamps.at)


def train_plainly(world: World, site: str, adapter: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """A site's steps in plain PyTorch: the adapter after them."""
    adapted, examples = world.adapted, world.examples(site)
    adapted.load(adapter)
    adapted.peft.train()
    optimizer = torch.optim.SGD(adapted.trained.values(), lr=0.1)
    order = np.random.default_rng(seed).permutation(len(examples))
    for step in range(STEPS):
        optimizer.zero_grad()
        batch = examples.batch(order[step * BATCH : (step + 1) * BATCH])
        adapted.forward(batch).losses.mean().backward()
        optimizer.step()
    return adapter + adapted.update_since(adapter)


def loop(rounds: int) -> list[float]:
    world = World(the_job(mechanism="none", rounds=rounds))
    adapter, stamps = world.initial_adapter, []
    for number in range(rounds):
        found = [train_plainly(world, site, adapter, number) for site in world.site_names]
        adapter = np.mean(found, axis=0, dtype=np.float32)
        world.workplace.evaluator.score(adapter)
        stamps.append(time.perf_counter())
    return _between(stamps)


def flower(rounds: int) -> list[float]:
    """The loop's training by Flower's engine, one site a message; it runs from this folder."""
    job = the_job(mechanism="none", rounds=rounds)
    job = job.model_copy(update={"device": job.device.model_copy(update={"threads": 1})})
    world, stamps, wrong = World(job), list[float](), list[str]()
    table, place = job.model_dump(mode="json"), str(Path(__file__).parent)
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, _context: Context) -> Message:
        # Actors find this file by its folder, and the house by theirs, PYTHONPATH.
        sys.path.insert(0, place)
        from race import trained_by

        return Message(trained_by(message.content, table), reply_to=message)

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        while len(list(grid.get_node_ids())) < SITES:
            time.sleep(0.05)
        nodes, adapter = sorted(grid.get_node_ids()), world.initial_adapter
        for _ in range(rounds):
            asked = []
            for number, node in enumerate(nodes):
                content = RecordDict({"adapter": ArrayRecord({"adapter": Array(adapter)})})
                asked.append(Message(content, node, MessageType.TRAIN, group_id=str(number)))
            answers = list(grid.send_and_receive(asked))
            wrong.extend(str(answer.error) for answer in answers if answer.has_error())
            if wrong:
                return
            found = [answer.content["adapter"]["adapter"].numpy() for answer in answers]
            adapter = np.mean(found, axis=0, dtype=np.float32)
            world.workplace.evaluator.score(adapter)
            stamps.append(time.perf_counter())

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app=server, client_app=client, num_supernodes=SITES, backend_config=resources)
    if wrong:
        raise RuntimeError(f"Flower's engine: {wrong[0]}")
    return _between(stamps)


def trained_by(content: RecordDict, table: dict[str, object]) -> RecordDict:
    """A client's answer: an actor makes the model once, and all sites are of one size."""
    if "world" not in _WORLDS:
        _WORLDS["world"] = World(Job.model_validate(table))
    adapter = content["adapter"]["adapter"].numpy()
    found = train_plainly(_WORLDS["world"], "site-1", adapter, 0)
    return RecordDict({"adapter": ArrayRecord({"adapter": Array(found)})})


def _between(stamps: list[float]) -> list[float]:
    return [end - start for start, end in pairwise(stamps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds after the first")
    parser.add_argument("--peers", default="loop,flower", help="of loop, flower and pfl")
    asked = parser.parse_args()
    peers, rounds = asked.peers.split(","), asked.rounds + 1
    runners = {
        "loop": loop,
        "ours": lambda count: ours("none", count),
        "ours_dp": lambda count: ours("gaussian", count),
        "flower": flower,
    }
    if "pfl" in peers:
        print("pfl: pfl-research is not run by this script yet", file=sys.stderr)
    found: dict[str, float | None] = dict.fromkeys([*runners, "pfl"])
    for name, runner in runners.items():
        if name.startswith("ours") or name in peers:
            found[name] = statistics.median(runner(rounds))
    print(json.dumps(found) if asked.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
