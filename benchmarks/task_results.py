"""What jobs reach without privacy, at ε = 8, at ε = 3 and at a site alone, and what they take.

``python benchmarks/task_results.py examples/credit.toml examples/series.toml`` simulates each job, once a
seed, and prints a row a job. Jobs were made with seeds of 0: these are other splits of the same data. A
site alone is the mean over sites, each at ε = 3. Peak memory is that of a process of its own for each run,
its baselines included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HEADS = (
    *("job", "task", "measure", "without privacy", "ε = 8", "ε = 3", "a site alone, ε = 3"),
    *("seconds at ε = 3", "peak memory"),
)


def run_once(path: Path, *, epsilon: float, seed: int, compare: bool) -> dict[str, object]:
    """One simulation in this process, with its baselines or not: main measure, seconds and peak memory."""
    import resource

    import confide
    from tasks.registry import find_task, read_job

    settings = [f"privacy.epsilon={epsilon}", f"seeds.data={seed}", f"seeds.adapter={seed}"]
    job = read_job(path, settings=settings)
    main = find_task(job.task).measures[0]
    with tempfile.TemporaryDirectory() as folder:
        run = confide.simulate(job, runs=Path(folder), compare=compare)
    found = {
        "task": job.task,
        "measure": main.title,
        "private": run.measures[main.name],
        "seconds": run.seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if run.comparison is not None:
        alone = [one.last.measures[main.name] for one in run.comparison.alone]
        free = run.comparison.free.measures[main.name]
        found |= {"without-privacy": free, "alone": statistics.mean(alone)}
    return found


def run_apart(path: Path, *, epsilon: float, seed: int, compare: bool) -> dict[str, object]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, str(path), "--once", str(epsilon), str(seed)]
    command += ["--compare"] * compare
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, object] = json.loads(told.splitlines()[-1])
    return found


def row(path: Path, seeds: int) -> str:
    """One job's row of the table: means over seeds, and the lowest and highest at ε = 3."""
    at = {
        epsilon: [
            run_apart(path, epsilon=epsilon, seed=seed, compare=epsilon == 3.0)
            for seed in range(1, seeds + 1)
        ]
        for epsilon in (3.0, 8.0)
    }
    first, all_runs = at[3.0][0], [*at[3.0], *at[8.0]]
    private = [float(str(one["private"])) for one in at[3.0]]
    spread = f"{_mean(at[3.0], 'private')} ({min(private):.3f} to {max(private):.3f})"
    cells = (
        f"`{path.name}`",
        f"`{first['task']}`",
        str(first["measure"]),
        _mean(at[3.0], "without-privacy"),
        _mean(at[8.0], "private"),
        spread,
        _mean(at[3.0], "alone"),
        f"{statistics.mean(float(str(one['seconds'])) for one in at[3.0]):.0f} s",
        f"{max(int(str(one['peak_bytes'])) for one in all_runs) / 1e6:.0f} MB",
    )
    return "| " + " | ".join(cells) + " |"


def _mean(runs: list[dict[str, object]], key: str) -> str:
    return f"{statistics.mean(float(str(one[key])) for one in runs):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--once", nargs=2, metavar=("EPSILON", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.once:
        epsilon, seed = chosen.once
        print(
            json.dumps(
                run_once(chosen.jobs[0], epsilon=float(epsilon), seed=int(seed), compare=chosen.compare)
            )
        )
        return
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS))
    for path in chosen.jobs:
        print(row(path, chosen.seeds), flush=True)


if __name__ == "__main__":
    main()
