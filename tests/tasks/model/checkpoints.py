"""Tiny checkpoints as hubs ship them: other classes than a task loads, and a tokenizer beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import nn

from protocol.job.job import Job
from protocol.job.job_file import parse_job
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel, load_base_model
from tasks.model.device import Device
from tests.tiny import WORDS

VOCABULARY = ["<pad>", "<unk>", "<s>", "</s>", *WORDS]
LABELS = ("no", "yes", "both")
CPU = Device(torch=torch.device("cpu"), bfloat16=False)
ENCODER: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_range": 0.3,
}
DECODER: dict[str, Any] = ENCODER | {"num_key_value_heads": 1, "head_dim": 8}
GPT2: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
}
DISTILBERT: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "dim": 16,
    "hidden_dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 32,
}


def write_checkpoint(folder: Path, kind: str, **config: Any) -> Path:
    """A model of transformers' class ``kind`` with random weights, and a tokenizer that knows WORDS."""
    network = getattr(transformers, kind)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network(network.config_class(**config)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, *, extra: tuple[str, ...] = (), **special: str | None) -> None:
    """A tokenizer by words; ``special`` tokens as given, such as ``pad_token=None`` for none."""
    words = {word: number for number, word in enumerate((*VOCABULARY, *extra))}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(words, unk_token=VOCABULARY[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    told = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"} | special
    given = {name: token for name, token in told.items() if token is not None}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given).save_pretrained(folder)


def job_for(
    source: Path, *, task: str = "sequence-classification", targets: tuple[str, ...] = (), **sections: Any
) -> Job:
    """A job on a checkpoint; ``sections`` as its file would have them."""
    labelled = {"label": "label", "labels": list(LABELS)} if task == "sequence-classification" else {}
    model = {"source": str(source)} | sections.pop("model", {})
    return parse_job(
        {
            "task": task,
            "model": model,
            "adapter": {"rank": 2, "target_modules": list(targets) or ["all-linear"]},
            "data": {"source": "none", "max_length": 8} | labelled,
            **sections,
        }
    )


def load(source: Path, *, labels: tuple[str, ...] = LABELS, **sections: Any) -> BaseModel:
    """The base model of such a job."""
    job = job_for(source, **sections)
    return load_base_model(job, labels=labels if job.task != "causal-lm" else (), device=CPU)


def adapt(source: Path, **sections: Any) -> AdaptedModel:
    """The adapted model of such a job."""
    return AdaptedModel(load(source, **sections), job=job_for(source, **sections), device=CPU)


def logits(model: nn.Module, texts: torch.Tensor) -> torch.Tensor:
    """What a model says of texts without padding, int64[b, t]."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=texts, attention_mask=torch.ones_like(texts)).logits
    return found
