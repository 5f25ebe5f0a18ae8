"""What homomorphic sums cost: seconds to encrypt, to add and to open, and bytes a site.

The bytes of masks are beside them: a word of 32 bits a number. TenSEAL must be installed: pip install
'confide[he]'.

Run: python benchmarks/homomorphic.py [--size 75000] [--sites 10] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from privacy.secagg.ckks.ciphertexts import Parameters
from privacy.secagg.ckks.homomorphic import add, encrypt, make_key, open_sum
from privacy.secagg.ring import Ring

REPEATS = 10
REACH = 1.0


def seconds(work: Callable[[], object]) -> float:
    """The median of some repetitions, after one that fills the caches."""
    work()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measured(size: int, sites: int) -> dict[str, float]:
    parameters = Parameters(sites=sites)
    key = make_key(parameters)
    updates = np.random.default_rng(0).normal(0.0, 0.3, (sites, size)).astype(np.float32)
    contents = [encrypt(key, update, parameters=parameters, reach=REACH) for update in updates]

    def opened() -> np.ndarray:
        return open_sum(key, contents, parameters=parameters, size=size, reach=REACH, min_survivors=sites)

    mean = np.clip(updates, -REACH, REACH).mean(axis=0, dtype=np.float64)
    return {
        "size": size,
        "sites": sites,
        "steps": parameters.steps,
        "key_bytes": len(key),
        "make_key_s": seconds(lambda: make_key(parameters)),
        "encrypt_s_a_site": seconds(
            lambda: encrypt(key, updates[0], parameters=parameters, reach=REACH),
        ),
        "add_s": seconds(lambda: add(contents, parameters=parameters, size=size)),
        "open_sum_s": seconds(opened),
        "bytes_a_site": len(contents[0]),
        "bytes_a_number": len(contents[0]) / size,
        "bytes_to_who_opens": sum(map(len, contents)),
        "masked_bytes_a_site": Ring(32).packed_size(size),
        "largest_error_of_a_mean_in_reach": float(np.abs(opened() / sites - mean).max() / REACH),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=75_000, help="numbers in an update")
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    found = measured(asked.size, asked.sites)
    print(json.dumps(found) if asked.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
