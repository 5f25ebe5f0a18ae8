"""Jobs of a chat model small enough to run in a second: conversations, and pairs of answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from protocol.job.job import Job
from protocol.job.job_file import parse_job
from tasks.registry import checked_job
from tests.tasks.data.chat_models import FAMILIES, Family

# An answer says whether the word is a thing of the day; each question is asked with other words around it.
WORDS = {"sun": "day", "moon": "night", "noon": "day", "owl": "night"}
ASKED = [f"{one}{word}{two}" for one, word, two in itertools.product("abcdefgh", WORDS, "123456")]


def write_model(folder: Path, family: Family = FAMILIES["Llama 3"]) -> Path:
    """A two-layer Llama with random weights, and a tokenizer that knows single characters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = family.tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_conversations(path: Path) -> Path:
    """An object a line, with a list of messages."""
    rows = [{"messages": [said("user", asked), said("assistant", answer_of(asked))]} for asked in ASKED]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_pairs(path: Path) -> Path:
    """An object a line: a prompt, and the right and the wrong answer."""
    other = {"day": "night", "night": "day"}
    rows = [
        {"prompt": asked, "chosen": answer_of(asked), "rejected": other[answer_of(asked)]}
        for asked in ASKED
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def answer_of(asked: str) -> str:
    return next(answer for word, answer in WORDS.items() if word in asked)


def job(folder: Path, task: str, **changes: Any) -> Job:
    """The tiny job of a task, each section changed as given, with its files in ``folder``."""
    model, data = folder / "model", folder / f"{task}.jsonl"
    if not model.exists():
        write_model(model)
    if not data.exists():
        (write_conversations if task == "instruction" else write_pairs)(data)
    keys = {"messages": "messages", "answers": 3} if task == "instruction" else {"prompt": "prompt"}
    whole: dict[str, Any] = {
        "name": "tiny-chat",
        "task": task,
        "model": {"source": str(model)},
        "adapter": {"rank": 4, "target_modules": ["all-linear"]},
        "data": {"source": str(data), "max_length": 48, "holdout": 0.2, **keys},
        "federation": {"sites": 2},
        "training": {
            "rounds": 2,
            "local_steps": 4,
            "batch_size": 32,
            "physical_batch_size": 16,
            "learning_rate": 0.02,
            "optimizer": "adam",
        },
        "privacy": {"epsilon": 8.0, "delta": 1e-3},
        "strategy": {"name": "fedit"},
        "aggregation": {"kind": "none"},
        "device": {"name": "cpu", "precision": "float32", "threads": 1},
    }
    for section, values in changes.items():
        whole[section] = {**whole.get(section, {}), **values} if isinstance(values, dict) else values
    return checked_job(parse_job(whole))
