"""What each strategy's merge costs the coordinator: seconds, and memory beside what it is given.

An adapter of 10 million numbers by default, in square layers, from ten sites. What a merge is given are the
sites' updates and the adapter before; a residual is a whole layer, and so the most of it. The time is the
least of some repetitions, of the clock and of all cores together.

Run: python benchmarks/merge.py [--numbers 10000000] [--width 1024] [--rank 16] [--sites 10] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc

import numpy as np

from protocol.job.layout import FACTOR_A, FACTOR_B, RESIDUAL, AdapterLayout
from protocol.job.strategy import Strategy, find_strategy, strategy_names

REPEATS = 2


def layout_for(strategy: Strategy, *, numbers: int, width: int, rank: int) -> AdapterLayout:
    """As many square layers as factors of so many numbers make."""
    sizes: dict[str, tuple[int, ...]] = {}
    for number in range(max(1, round(numbers / (2 * width * rank)))):
        sizes |= {f"{number:04d}{FACTOR_A}": (rank, width), f"{number:04d}{FACTOR_B}": (width, rank)}
        if strategy.residual:
            sizes[f"{number:04d}{RESIDUAL}"] = (width, width)
        if strategy.cored:
            sizes[f"{number:04d}.lora_C.weight"] = (rank, rank)
    return strategy.lay_out(sizes)


def measured(name: str, *, numbers: int, width: int, rank: int, sites: int) -> dict[str, float | str]:
    rule = find_strategy(name)
    strategy = rule.model_validate({"malicious": 1} if "malicious" in rule.model_fields else {})
    layout = strategy.in_round(layout_for(strategy, numbers=numbers, width=width, rank=rank), 1)
    generator = np.random.default_rng(0)
    adapter = 0.1 * generator.standard_normal(layout.adapter_size, np.float32)
    updates = 0.01 * generator.standard_normal((sites, layout.update_size), np.float32)
    if strategy.linear:
        updates = updates.mean(axis=0)
    state = strategy.start(layout, adapter)
    taken, worked = [], []
    for _ in range(REPEATS):
        began, at_work = time.perf_counter(), time.process_time()
        strategy.merge(state, updates, layout, 1)
        taken.append(time.perf_counter() - began)
        worked.append(time.process_time() - at_work)
    given = adapter.nbytes + updates.nbytes
    tracemalloc.start()
    strategy.merge(state, updates, layout, 1)
    more = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "strategy": name,
        "seconds": min(taken),
        "core_seconds": min(worked),
        "given_mib": given / 2**20,
        "peak_of_given": (given + more) / given,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=None, help="names of strategies")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    shape = {"numbers": asked.numbers, "width": asked.width, "rank": asked.rank, "sites": asked.sites}
    for name in asked.only or strategy_names():
        found = measured(name, **shape)
        if asked.json:
            print(json.dumps(shape | found), flush=True)
        else:
            print(
                f"{name:13} {found['seconds']:7.2f} s  {found['core_seconds']:7.2f} core s  "
                f"{found['given_mib']:6.0f} MiB given, {found['peak_of_given']:.2f} times that at most",
                flush=True,
            )


if __name__ == "__main__":
    main()
