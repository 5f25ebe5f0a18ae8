"""Fixed clipping norms against one that follows a quantile, from a hundred times too low and too high.

``python benchmarks/clipping.py examples/tweets.toml --set data.limit=10000`` simulates the job with each
norm and prints a table of docs/tuning.md. A step is as long with every norm: the learning rate of a fixed
one is the job's over the norm. All runs draw the same batches and noise: differences are the norm's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

FIXED = (0.3, 1.0, 3.0, 10.0)
STARTS = (0.01, 1.0, 100.0)


def main() -> None:
    import confide
    from runs.run_folder import RunFolder
    from simulation.booked_homes import memory_in
    from tasks.registry import find_task, read_job

    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--best", type=float, default=1.0, help="what the starts are 100 times beside")
    asked = parser.parse_args()
    rate = read_job(asked.job, settings=asked.settings).training.learning_rate
    rows: list[tuple[str, float, float | None]] = [(f"fixed at {norm:g}", norm, None) for norm in FIXED]
    rows += [(f"median, from {asked.best * start:g}", asked.best * start, 0.5) for start in STARTS]
    print("| norm | loss | measure | norms at the end | seconds |\n|---|---|---|---|---|")
    for name, norm, quantile in rows:
        own = [f"privacy.clipping_norm={norm}", "seeds.noise=1"]
        own.append(f"training.learning_rate={rate / norm if quantile is None else rate}")
        own += [] if quantile is None else [f"privacy.clipping_quantile={quantile}"]
        job, began = read_job(asked.job, settings=[*asked.settings, *own]), time.process_time()
        with tempfile.TemporaryDirectory() as place:
            run = confide.simulate(job, runs=Path(place), workers=1)
            manifest, ended = RunFolder.open(run.folder).manifest, "-"
            if quantile is not None:
                kept = [
                    memory_in(run.folder / "sites", site, manifest).newest()["norm"][0]
                    for site in run.epsilon
                ]
                ended = f"{statistics.mean(kept):.3g}"
            measure = find_task(job.task).measures[0].name
            seconds = time.process_time() - began
        scores = f"{run.rounds[-1].loss:.4f} | {run.measures[measure]:.4f}"
        print(f"| {name} | {scores} | {ended} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
