"""From how many sites on a federation that hides whole sites beats the best of them alone.

The demo's tweets are dealt evenly to more and more sites, at ε = 8 for a whole site, with Skellam noise in
shares under masks. Beside each federation some of its sites train alone on what they have, without noise:
nobody hides a site from itself. The best of them is what the federation has to beat. ``plan`` is what
``confide plan`` says of the federation in the same row: from how many sites on noise is low.

Each federation that ends is a line of ``--results``, and is not run again. ``--print`` runs nothing.

Run: python benchmarks/whole_sites.py --results FILE [--sites 50,100,200,400] [--seeds 1,2,3] [--alone 8]
     [--set KEY=VALUE] [--print] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privacy.accounting.plan import SitePlan
from protocol.job.aggregation import PlainSection
from protocol.job.job import Job
from runs.progress import Silence
from runs.run_folder import RunFolder
from simulation.forecast.crowd import fewest_sites
from simulation.forecast.noise_level import Setup
from simulation.simulated_federation import World
from simulation.simulated_run import run_in_folder
from tasks.registry import read_job

DEMO = Path(__file__).parent.parent / "examples" / "tweets.toml"
SETTINGS = (
    "federation.partition=iid",
    'privacy.unit="site"',
    'privacy.mechanism="skellam"',
    "privacy.epsilon=8",
    "privacy.clipping_norm=16",
    'strategy.name="ffa"',
    "device.threads=1",
    "adapter.layers_to_transform=[5]",
    "data.max_length=16",
    "training.rounds=8",
    "training.local_steps=4",
    "training.batch_size=32",
    "training.physical_batch_size=32",
    "training.learning_rate=2",
)
# Alone a site takes as many steps, at the rate of clipped gradients.
ALONE_RATE, ALONE_NORM = 16.0, 1.0


def measure(sites: int, *, seed: int, alone: int, more: Sequence[str]) -> dict[str, Any]:
    """One federation and some of its sites alone: accuracies on the same held-out tweets."""
    seeds = (f"seeds.{name}={seed}" for name in ("data", "adapter", "noise"))
    job = read_job(DEMO, settings=[*SETTINGS, f"federation.sites={sites}", *seeds, *more])
    world = World(job)
    setup = Setup(job=job, layout=world.adapted.layout, examples=tuple(world.sizes.values()))
    plan, noise = setup.plan(setup.examples[0]), setup.noise_level().run
    if not isinstance(plan, SitePlan):
        raise SystemExit('expected privacy.unit="site"')
    by_itself = _alone(job)
    return {
        "federation": _accuracy(world),
        "alone": [_accuracy(world.variant(by_itself, sites=(name,))) for name in world.site_names[:alone]],
        "examples": setup.examples[0],
        "multiplier": plan.mechanism.multiplier,
        "noise": noise,
        "plan": fewest_sites(setup, run=noise) or f"at most {sites}",
    }


def _alone(job: Job) -> Job:
    privacy = job.privacy.model_copy(
        update={
            "unit": job.privacy.sampled_unit,
            "mechanism": "none",
            "noise": "distributed",
            "clipping_norm": ALONE_NORM,
        }
    )
    training = job.training.model_copy(update={"learning_rate": ALONE_RATE})
    return job.model_copy(update={"privacy": privacy, "training": training, "aggregation": PlainSection()})


def _accuracy(world: World) -> float:
    with tempfile.TemporaryDirectory() as place:
        folder: RunFolder = world.create_folder(Path(place) / "run")
        run_in_folder(world, folder, workers=1, progress=Silence())
        return folder.records()[-1].measures["accuracy"]


class Results:
    """Lines of a file, each a federation that has ended."""

    def __init__(self, path: Path, *, only: bool) -> None:
        self._path, self._only = path, only
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self._found = {self._key(line): line for line in map(json.loads, lines)}

    def get(self, **wanted: Any) -> dict[str, Any] | None:
        """What one came to; it is run first if it has not been, unless there is only what there is."""
        key = self._key(wanted)
        if key not in self._found and not self._only:
            self._found[key] = wanted | measure(
                wanted["sites"], seed=wanted["seed"], alone=wanted["alone_sites"], more=wanted["more"]
            )
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(self._found[key]) + "\n")
            print(json.dumps(self._found[key]), file=sys.stderr, flush=True)
        return self._found.get(key)

    @staticmethod
    def _key(line: dict[str, Any]) -> tuple[Any, ...]:
        return (line["sites"], line["seed"], line["alone_sites"], *line["more"])


def as_row(sites: int, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What some federations of one size came to together: means over the seeds."""
    best = [max(one["alone"]) for one in runs]
    federation = [one["federation"] for one in runs]
    return {
        "sites": sites,
        "examples": runs[0]["examples"],
        "noise": runs[0]["noise"],
        "plan": runs[0]["plan"],
        "runs": len(runs),
        "federation": statistics.fmean(federation),
        "best_alone": statistics.fmean(best),
        "mean_alone": statistics.fmean(x for one in runs for x in one["alone"]),
        "ahead": sorted(mine - other for mine, other in zip(federation, best, strict=True)),
    }


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a table of Markdown."""
    lines = [
        "| sites | tweets each | noise over signal | plan: low from | federation | best alone "
        "| mean alone | ahead |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ahead = ", ".join(f"{100 * one:+.1f}" for one in row["ahead"])
        lines.append(
            f"| {row['sites']} | {row['examples']} | {row['noise']:.2f} | {row['plan']} "
            f"| {100 * row['federation']:.1f} % | {100 * row['best_alone']:.1f} % "
            f"| {100 * row['mean_alone']:.1f} % | {ahead} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--sites", default="50,100,200,400")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--alone", type=int, default=8, help="how many of the sites train alone")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="more")
    parser.add_argument("--print", action="store_true", help="what there is so far, and run nothing")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results = Results(asked.results, only=asked.print)
    sizes, seeds = ([int(one) for one in text.split(",")] for text in (asked.sites, asked.seeds))
    wanted = {"alone_sites": asked.alone, "more": asked.more}
    found = {
        size: [one for seed in seeds if (one := results.get(sites=size, seed=seed, **wanted))]
        for size in sizes
    }
    rows = [as_row(size, runs) for size, runs in found.items() if runs]
    print(json.dumps(rows) if asked.json else as_table(rows))


if __name__ == "__main__":
    main()
