"""Jobs whose answers are judged, small enough to run in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from protocol.job.job import Job
from tasks.answered_prompts import Panel
from tasks.data.token_examples import TokenExamples
from tasks.model.adapted_model import AdaptedModel
from tests import tiny_chat
from tests.models import adapt, llama, make_job
from tests.tasks.data.chat_models import FAMILIES

END = 7


class LetterJudge:
    """Counts letters, as a classifier would say how likely a label is."""

    def __init__(self, letters: str = "0123456789") -> None:
        self._letters = letters
        self.asked: list[str] = []

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        found = [sum(text.count(letter) for letter in self._letters) / 4 for text in texts]
        return np.array(found, np.float32)


def judged_model(*, layers: int = 2, constraint: bool = False, **data: Any) -> AdaptedModel:
    """A tiny language model with a judge of letters: three answers of up to four tokens a prompt."""
    whole = {"source": "none", "prompt": "p", "reward": {"source": "none"}, "max_length": 16}
    whole |= {"max_answer": 4, "samples": 3, **data}
    if constraint:
        whole["constraint"] = {"source": "none", "least": 0.5, "penalty": 2.0}
    adapted = adapt(
        llama(layers=layers), make_job(targets=["q_proj", "v_proj"], task="rewards", data=whole)
    )
    reader = replace(adapted.base.reader, tokenizer=FAMILIES["Llama 3"].tokenizer())
    panel: Any = Panel(
        reward=LetterJudge(),  # type: ignore[arg-type]
        constraint=LetterJudge("ABCDEFGHIJK") if constraint else None,  # type: ignore[arg-type]
        ends=(END,),
    )
    adapted.base = replace(adapted.base, reader=reader, beside=panel)
    return adapted


def prompts(adapted: AdaptedModel, lengths: Sequence[int] = (3, 6, 9, 5)) -> TokenExamples:
    """Prompts of these lengths, with places for their answers."""
    section = adapted.spec.data
    sizes = np.array(lengths) + section["samples"] * section["max_answer"]
    made = adapted.task.made_up(adapted, np.random.Generator(np.random.PCG64(4)), sizes)
    assert isinstance(made, TokenExamples)
    return replace(made, targets=None, learned=np.asarray(made.branches) > 0)


def write_judge(folder: Path, *, labels: Sequence[str] = ("bad", "good"), seed: int = 0) -> Path:
    """A one-layer BERT with random weights that reads single characters."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = FAMILIES["Llama 3"].tokenizer(**{"pad_token": "<unk>"})
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_job(folder: Path, **changes: Any) -> Job:
    """The tiny chat model's prompts, with a judge of random weights, all in ``folder``."""
    judge = folder / "judge"
    if not judge.exists():
        write_judge(judge)
    data = {
        "reward": {"source": str(judge), "label": "good"},
        "max_length": 36,
        "max_answer": 3,
        "samples": 3,
        "limit": 60,
        **changes.pop("data", {}),
    }
    return tiny_chat.job(folder, "rewards", data=data, **changes)
