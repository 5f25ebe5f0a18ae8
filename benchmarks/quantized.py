"""What packing a base model saves: bytes of its tensors in four and eight bits against float32.

The model is made up: a Llama of 8 layers of width 1024.

Run: python benchmarks/quantized.py [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

from protocol.job.job_file import parse_job
from tasks.model.base_model import load_base_model
from tasks.model.device import choose_device

KINDS = ("float32", "nf4", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_model(Path(place))
        sizes = {kind: held(Path(place), kind) for kind in KINDS}
    found = {kind: {"bytes": size, "ratio": size / sizes["float32"]} for kind, size in sizes.items()}
    print(json.dumps(found) if asked.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


def write_model(folder: Path) -> None:
    """Random weights, and a tokenizer of two words."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=16,
        max_position_embeddings=256,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2}, "b")).save(str(folder / "tokenizer.json"))
    table = {"tokenizer_class": "TokenizersBackend", "pad_token": "[PAD]", "unk_token": "b"}
    (folder / "tokenizer_config.json").write_text(json.dumps(table), encoding="utf-8")


def held(folder: Path, kind: str) -> int:
    """Bytes of the base model's tensors, as they are held from its loading on."""
    model = {"source": str(folder)} | ({} if kind == "float32" else {"quantization": kind})
    job = parse_job(
        {
            "task": "causal-lm",
            "model": model,
            "adapter": {"target_modules": ["q_proj"]},
            "data": {"source": "none"},
            "device": {"name": "cpu", "precision": "float32"},
        }
    )
    base = load_base_model(job, labels=(), device=choose_device(job.device))
    tensors = {tensor.data_ptr(): tensor for tensor in base.model.state_dict().values()}
    return sum(tensor.nbytes for tensor in tensors.values())


if __name__ == "__main__":
    main()
