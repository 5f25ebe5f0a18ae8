"""Spoilt messages and states, a million of them: each is read or refused, and none costs memory beyond it.

Memory is that of Python and numpy, as tracemalloc sees it, of one input in twenty. An error that is not of
Confide's own tree ends the run, and names the input.

Run: python benchmarks/fuzz.py [--inputs 1000000] [--seed 1] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections import Counter

from tests.protocol.fuzzing import Fuzzer, allowed_bytes

MEASURED = 20  # of so many inputs, one is measured: to do so takes a multiple of reading it


def run(inputs: int, seed: int) -> dict[str, object]:
    fuzzer, ends, worst = Fuzzer(seed), Counter[str](), 0.0
    began = time.perf_counter()
    for number in range(inputs):
        name, content = fuzzer.draw()
        measured = number % MEASURED == 0
        if measured:
            tracemalloc.start()
        try:
            ends[f"{name}: {fuzzer.read(name, content)}"] += 1
        except Exception as error:
            raise SystemExit(
                f"input {number} of seed {seed}, {name} {content[:200]!r}: {error!r}"
            ) from error
        if measured:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            worst = max(worst, peak / allowed_bytes(content))
    return {
        "inputs": inputs,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "memory of the worst, as a share of what is allowed": round(worst, 3),
        "ends": dict(sorted(ends.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = run(options.inputs, options.seed)
    if options.json:
        print(json.dumps(found))
        return
    ends = found.pop("ends")
    for name, value in found.items():
        print(f"{name}: {value}")
    for end, count in dict(ends).items():  # type: ignore[call-overload]
        print(f"{count:>9}  {end}")


if __name__ == "__main__":
    main()
