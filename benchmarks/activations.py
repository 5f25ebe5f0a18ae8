"""What keeping the frozen layers' activations saves: one site's private step with and without them.

Run: python benchmarks/activations.py [KEY=VALUE …] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from privacy.accounting.sampled_plan import make_sampled_plan
from privacy.mechanisms.rng import keyed_entropy
from simulation.simulated_federation import World
from tasks.model.frozen_prefix import Activations
from tasks.registry import read_job

SETTINGS = [
    "data.limit=3000",
    "federation.sites=1",
    "federation.partition=iid",
    "training.local_steps=1",
]
PAIRS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="keys of the job to set")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    job = read_job(Path("examples/tweets.toml"), settings=[*SETTINGS, *asked.settings])
    world = World(job)
    examples = world.examples("site-1")
    kept = Activations(world.prefix, examples)
    kept.fill(np.arange(len(examples)))
    plan = make_sampled_plan(
        mechanism="gaussian",
        epsilon=job.privacy.epsilon,
        delta=job.privacy.delta,
        clipping_norm=job.privacy.clipping_norm,
        expected_batch_size=job.training.batch_size,
        examples=len(examples),
        steps=100,
    )

    def step(number: int, activations: Activations | None) -> tuple[float, np.ndarray]:
        began = time.perf_counter()
        update = world.trainer.train(
            world.initial_adapter,
            examples,
            training=job.training,
            plan=plan,
            round_number=1,
            entropy=keyed_entropy(1, f"run {number}"),
            activations=activations,
        )
        return time.perf_counter() - began, update

    step(0, kept), step(0, None)
    pairs = [(step(number, None), step(number, kept)) for number in range(1, PAIRS + 1)]
    ratios = [whole[0] / short[0] for whole, short in pairs]
    apart = max(float(np.abs(whole[1] - short[1]).max()) for whole, short in pairs)
    found = {
        "seconds_without": statistics.median(whole[0] for whole, _ in pairs),
        "seconds_with": statistics.median(short[0] for _, short in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "largest_difference_of_updates": apart,
        "device": str(world.device),
    }
    print(json.dumps(found) if asked.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
