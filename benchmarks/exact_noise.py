"""What integers and exact noise cost a step, against the same in floats.

The peer clips, sums and draws noise as it is commonly done: norms and sums in float32, noise in float64 by
Box-Muller from the same key stream. Both start from the same per-example gradients; times are of processor
time on one thread, pairs in turn, medians.

Run: python benchmarks/exact_noise.py [--json]
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from privacy.mechanisms.clipping import ClippedSum, clip_gradients
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source, fresh_source

PAIRS = 7
# Trained numbers, examples in a physical batch, physical batches: the demo's step, and larger adapters.
SIZES = ((38_000, 32, 4), (250_000, 16, 8), (2_400_000, 8, 2))


def exact(batches: list[torch.Tensor], source: ChaCha20Source) -> torch.Tensor:
    total: ClippedSum | None = None
    for batch in batches:
        clipped = clip_gradients([batch], bound=1.0, norm=2)
        total = clipped if total is None else total.joined(clipped)
    (released,) = Mechanism(name="gaussian", multiplier=1.0).release(total, source)
    return released.float()


def in_floats(batches: list[torch.Tensor], source: ChaCha20Source) -> torch.Tensor:
    total = torch.zeros_like(batches[0][0])
    for batch in batches:
        finite = batch.isfinite().all(1)
        rows = torch.where(finite[:, None], batch, 0.0)
        norms = rows.square().sum(1).sqrt()
        total += rows.mul_((1.0 / norms).clamp(max=1.0)[:, None]).sum(0)
    return total + torch.from_numpy(box_muller(len(total), source)).float()


def box_muller(size: int, source: ChaCha20Source) -> np.ndarray:
    pairs = (size + 1) // 2
    radius = np.sqrt(-2.0 * np.log(source._uniform(pairs)))
    angle = 2.0 * math.pi * source._uniform(pairs)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    found = []
    for size, rows, count in SIZES:
        batches = [0.1 * torch.randn(rows, size) for _ in range(count)]
        pairs = [
            (
                seconds(lambda: exact(batches, fresh_source())),  # noqa: B023 - called at once
                seconds(lambda: in_floats(batches, fresh_source())),  # noqa: B023
            )
            for _ in range(PAIRS)
        ]
        ours, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        found.append(
            {"numbers": size, "examples": rows * count, "exact": ours, "floats": peer, "ratio": ratio}
        )
        if "--json" not in sys.argv:
            print(
                f"{size:>9,} numbers, {rows * count:>3} examples: {1000 * ours:6.0f} ms exact, "
                f"{1000 * peer:6.0f} ms in floats, {ratio:.1f} times"
            )
    if "--json" in sys.argv:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
