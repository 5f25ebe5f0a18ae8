"""The race's work, which all its peers do: the job, a site's steps in plain PyTorch, and turns.

Each peer is a process of its own. It says when a round is done and waits until it is its turn again, so
that rounds of all peers alternate and other work on the machine slows none of them alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from protocol.job.job import Job
from simulation.simulated_federation import World
from tasks.registry import read_job

SITES, TWEETS, HELD_OUT, COHORT = 100, 64, 53, 20
STEPS, BATCH, RATE = 4, 16, 0.1
S = TypeVar("S")
# What a peer prints when a round is done; libraries print on the same stream.
DONE = "a round of the race is done"


@dataclass(frozen=True, kw_only=True)
class Lap:
    """What a peer is asked: so many rounds, LoRA on these layers, on so many threads."""

    rounds: int
    layers: str
    threads: int


def next_turn() -> None:
    """Say that a round is done; return when the next one may begin, or when there is none."""
    print(DONE, flush=True)
    sys.stdin.readline()


def the_job(lap: Lap, *, mechanism: str = "none") -> Job:
    """The demo's job with the race's work."""
    lines = (
        Path("examples/tweets.toml").read_text().replace('name = "fedsvd"', 'name = "lora"').splitlines()
    )
    if lap.layers == "all":
        lines = [line for line in lines if not line.startswith("layers_to_transform")]
    limit = SITES * TWEETS + HELD_OUT
    settings = [
        *(f"data.limit={limit}", f"data.holdout={HELD_OUT / limit}"),
        *(f"federation.sites={SITES}", f"federation.cohort={COHORT}", "federation.partition=iid"),
        *("adapter.rank=8", "adapter.alpha=8"),
        *(f"training.rounds={lap.rounds}", f"training.local_steps={STEPS}", f"training.batch_size={BATCH}"),
        *(f"training.physical_batch_size={BATCH}", f"training.learning_rate={RATE}"),
        *("device.precision=float32", f"device.threads={lap.threads}"),
        *(f"privacy.mechanism={mechanism}", "privacy.epsilon=8", "privacy.delta=1e-3"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "race.toml"
        path.write_text("\n".join(lines))
        return read_job(path, settings=settings)


def cohort(sites: Sequence[S], number: int) -> list[S]:
    """Those of a round, counted from 0: all in turn, as Confide draws them too."""
    return [sites[(COHORT * number + place) % len(sites)] for place in range(COHORT)]


def train_plainly(world: World, site: str, adapter: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """A site's steps in plain PyTorch: the adapter after them."""
    adapted, examples = world.adapted, world.examples(site)
    adapted.load(adapter)
    adapted.peft.train()
    optimizer = torch.optim.SGD(adapted.trained.values(), lr=RATE)
    order = np.random.default_rng(seed).permutation(len(examples))
    for step in range(STEPS):
        optimizer.zero_grad()
        batch = examples.batch(order[step * BATCH : (step + 1) * BATCH])
        adapted.forward(batch).losses.mean().backward()
        optimizer.step()
    return adapter + adapted.update_since(adapter)
