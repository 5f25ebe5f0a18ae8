"""What adapters on routed experts cost: one site's private step with them and with attention's alone.

Run: python examples/make_experts.py, then python benchmarks/experts.py [KEY=VALUE …] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from privacy.accounting.sampled_plan import make_sampled_plan
from privacy.mechanisms.rng import keyed_entropy
from simulation.simulated_federation import World
from tasks.registry import read_job

TARGETS = {
    "attention": ["q_proj", "v_proj"],
    "experts": ["experts"],
    "both": ["q_proj", "v_proj", "experts"],
}
PAIRS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="keys of the job to set")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    worlds = {name: world_of(targets, asked.settings) for name, targets in TARGETS.items()}
    for world in worlds.values():
        step(world, 0)
    rounds = [
        {name: step(world, number) for name, world in worlds.items()} for number in range(1, PAIRS + 1)
    ]
    found: dict[str, object] = {}
    for name, world in worlds.items():
        found[f"{name}_trained_numbers"] = world.adapted.layout.trained_size
        found[f"{name}_seconds"] = statistics.median(times[name] for times in rounds)
        ratios = [times[name] / times["attention"] for times in rounds]
        found[f"{name}_ratio"] = statistics.median(ratios)
        found[f"{name}_ratio_range"] = [min(ratios), max(ratios)]
    print(json.dumps(found) if asked.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


def world_of(targets: list[str], settings: list[str]) -> World:
    modules = f"adapter.target_modules={json.dumps(targets)}"
    return World(read_job(Path("examples/experts.toml"), settings=[modules, "device.threads=1", *settings]))


def step(world: World, number: int) -> float:
    """Processor seconds of one private step, its noise included."""
    job, name = world.job, world.site_names[0]
    examples = world.examples(name)
    plan = make_sampled_plan(
        mechanism="gaussian",
        epsilon=job.privacy.epsilon,
        delta=job.privacy.delta,
        clipping_norm=job.privacy.clipping_norm,
        expected_batch_size=job.training.batch_size,
        examples=len(examples),
        steps=100,
    )
    began = time.process_time()
    world.trainer.train(
        world.initial_adapter,
        examples,
        training=job.training.model_copy(update={"local_steps": 1}),
        plan=plan,
        round_number=1,
        entropy=keyed_entropy(1, f"run {number}"),
        activations=None,
    )
    return time.process_time() - began


if __name__ == "__main__":
    main()
