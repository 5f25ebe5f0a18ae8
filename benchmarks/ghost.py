"""What keeping a linear layer's gradients as factors saves in clipping, by the layer's shape.

A layer of out × in weights that an example goes through at t places: its gradients are computed, clipped
and added up, or that is done from the t · (in + out) numbers of their factors. Processor time on one
thread, pairs in turn, medians; memory is what is held of all examples between backward pass and sum.

Run: python benchmarks/ghost.py
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch

from privacy.mechanisms.clipping import clip_gradients
from privacy.mechanisms.factored_clipping import clip_found
from privacy.mechanisms.factored_gradients import Factors, numbers_spared

PAIRS, EXAMPLES = 5, 32
# What it is, places, in, out.
SHAPES = (
    ("a head of 3 labels", 1, 768, 3),
    ("a head of 10 labels", 1, 768, 10),
    ("a head of 20 labels", 1, 768, 20),
    ("a head of 100 labels", 1, 768, 100),
    ("a head of 1,000 labels", 1, 768, 1000),
    ("LoRA of rank 16 on a table's network", 1, 256, 16),
    ("LoRA of rank 64, 4 tokens", 4, 1024, 64),
    ("LoRA of rank 8, 64 tokens", 64, 1024, 8),
    ("LoRA of rank 256, 16 tokens", 16, 1024, 256),
    ("LoRA of rank 256, 64 tokens", 64, 1024, 256),
    ("a whole layer, 16 tokens", 16, 768, 768),
    ("a whole layer, 64 tokens", 64, 768, 768),
)


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print("| layer | fewer numbers | whole, MB | factors, MB | whole, ms an example | factors | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, places, wide, high in SHAPES:
        inputs, outputs = (
            torch.randn((EXAMPLES, places, size), generator=generator) for size in (wide, high)
        )
        found = Factors(inputs=inputs, outputs=outputs)
        # ``whole`` is what the backward pass would do, which is not done for factors.
        whole, factored = in_turn(
            lambda found=found: clip_gradients([found.whole()], bound=1.0, norm=2),
            lambda found=found: clip_found([found], bound=1.0, norm=2),
        )
        spared = numbers_spared(places=places, shape=(high, wide))
        held = [4e-6 * EXAMPLES * count for count in (math.prod((high, wide)), places * (high + wide))]
        times = [1e3 * seconds / EXAMPLES for seconds in (whole, factored)]
        print(
            f"| {name} | {spared:.2g} | {held[0]:.2g} | {held[1]:.2g} | {times[0]:.3f} | {times[1]:.3f} | "
            f"{whole / factored:.2g} |",
            flush=True,
        )


def in_turn(*ways: Callable[[], object]) -> list[float]:
    """Median seconds of processor time of each way."""
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(PAIRS):
        for way, seconds in zip(ways, taken, strict=True):
            began = time.process_time()
            way()
            seconds.append(time.process_time() - began)
    return [statistics.median(seconds) for seconds in taken]


if __name__ == "__main__":
    main()
