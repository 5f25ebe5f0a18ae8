"""What workers save: the demo's job, 4,000 rows dealt evenly, by one process and several; seconds a round.

Noise is keyed, so that each has one thread and the adapters can be compared. The first round, which fills
the stores of kept activations, and what starting takes are told apart from the rest.

Run: python benchmarks/workers.py [WORKERS] [--json]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.registry import read_job

ROUNDS = 4
SETTINGS = [f"training.rounds={ROUNDS}", "seeds.noise=1", "data.limit=4000", "federation.partition=iid"]


def main() -> None:
    job = read_job(Path("examples/tweets.toml"), settings=SETTINGS)
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    several = numbers[0] if numbers else len(os.sched_getaffinity(0))
    found, adapters = [], set()
    with tempfile.TemporaryDirectory() as place:
        for workers in (1, several, 1, several):
            began = time.perf_counter()
            run = simulate(job, runs=Path(place), name=f"{len(found)}", workers=workers)
            folder = RunFolder.open(run.folder)
            adapters.add((folder.adapter_path / "adapter_model.safetensors").read_bytes())
            seconds = [record.seconds for record in run.rounds]
            found.append(
                {
                    "workers": workers,
                    "first_round": seconds[0],
                    "round": statistics.median(seconds[1:]),
                    "whole": time.perf_counter() - began,
                    "load": os.getloadavg()[0],
                }
            )
    ratio = min(one["round"] for one in found if one["workers"] == 1) / min(
        one["round"] for one in found if one["workers"] == several
    )
    result = {"runs": found, "ratio": ratio, "same_adapter": len(adapters) == 1}
    if "--json" in sys.argv:
        print(json.dumps(result))
        return
    for one in found:
        print(
            f"{one['workers']} workers: first round {one['first_round']:.1f} s, later ones "
            f"{one['round']:.2f} s, whole {one['whole']:.1f} s, load {one['load']:.1f}"
        )
    print(
        f"a later round takes {ratio:.2f} times as long without workers; same adapter: {len(adapters) == 1}"
    )


if __name__ == "__main__":
    main()
