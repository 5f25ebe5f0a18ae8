"""Writes an encoder of voices as Confide loads it: Resemblyzer's, as it was trained to tell speakers apart.

The weights are those of a package (Apache-2.0), which need not be importable:

    pip install --no-deps resemblyzer==0.1.4
    python examples/speaker_encoder.py

A job on sounds at 16,000 samples a second then says model.source = "speaker-encoder" and
strategy.name = "head", and has no [adapter]. The package has its weights as a pickle, which is read here,
without code in it, and never when a job runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from tasks.data.package_path import package_path

SOURCE = "package:resemblyzer/pretrained.pt"
TO = Path(__file__).with_name("speaker-encoder")
KEPT = ("lstm.", "linear.")  # what is left out belongs to its loss


def write(weights: Mapping[str, torch.Tensor], to: Path) -> None:
    """Write an encoder with these weights to a folder."""
    to.mkdir(parents=True, exist_ok=True)
    tensors = {name: one.float().contiguous() for name, one in weights.items() if name.startswith(KEPT)}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    (to / "config.json").write_text(json.dumps({"model_type": "speaker-encoder"}), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--to", type=Path, default=TO)
    chosen = parser.parse_args()
    state = torch.load(package_path(SOURCE), weights_only=True, map_location="cpu")["model_state"]
    write(state, chosen.to)
    print(f"Wrote the speaker encoder to {chosen.to}")
