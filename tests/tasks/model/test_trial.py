"""Tried on made-up texts: a model that cannot be run, draws numbers or sees the future is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from privacy.errors import ModelError
from tasks.model.trial import check_causal, try_model
from tests import models
from tests.tasks.model.checkpoints import DECODER, ENCODER, load, write_checkpoint

WHISPER = {
    "vocab_size": ENCODER["vocab_size"],
    "d_model": 16,
    "max_source_positions": 16,
    "max_target_positions": 16,
    "pad_token_id": 0,
} | {
    f"{part}_{what}": 1
    for part in ("encoder", "decoder")
    for what in ("layers", "attention_heads", "ffn_dim")
}
TEXTS: dict[str, Any] = {"padding": 0, "tokens": models.VOCABULARY, "limit": 64}


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        ("BertForMaskedLM", ENCODER, "BertLMHeadModel sees the tokens that it should guess"),
        ("RobertaForMaskedLM", ENCODER, "sees the tokens that it should guess"),
        ("WhisperForConditionalGeneration", WHISPER, "whisper is no language model that reads"),
        ("DistilBertModel", {}, "distilbert is no language model"),
        (
            "LlamaModel",
            DECODER,
            r"lack lm_head\.weight: expected them saved as LlamaForCausalLM, got LlamaModel",
        ),
    ],
)
def test_what_is_no_causal_language_model_is_refused(
    kind: str, config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    sizes = config or {"dim": 16, "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "vocab_size": 16}
    folder = write_checkpoint(tmp_path, kind, **sizes)
    with pytest.raises(ModelError, match=reason):
        load(folder, task="causal-lm")


@pytest.mark.parametrize("build", [models.llama, models.gpt2, models.deepseek, models.qwen2_moe])
def test_causal_language_models_pass(build: Any) -> None:
    check_causal(build(), task="causal-lm", **TEXTS)


@pytest.mark.parametrize("tokens", [2, 3, 8, 9])
def test_a_bidirectional_one_is_seen_whatever_its_vocabulary(tokens: int) -> None:
    with pytest.raises(ModelError, match="in both directions"):
        check_causal(
            models.bert(pooling="mean"), task="instruction", padding=0, tokens=tokens + 1, limit=64
        )


def test_a_model_that_draws_when_it_is_evaluated_is_refused() -> None:
    model = models.llama()
    try_model(model, **TEXTS)
    model.model.norm.register_forward_hook(lambda _module, _args, out: out + 1e-3 * torch.randn_like(out))
    with pytest.raises(ModelError, match="draws random numbers whenever it is run"):
        try_model(model, **TEXTS)


def test_what_a_model_says_of_padding_may_be_no_number() -> None:
    model = models.llama()
    nothing = torch.tensor([[1.0], *[[float("nan")]] * 7])  # for the padded text's eight places
    both = torch.stack([nothing, torch.ones_like(nothing)])
    model.model.norm.register_forward_hook(lambda _module, _args, out: out * both)
    try_model(model, **TEXTS)


@pytest.mark.parametrize(
    "error", [ValueError("rows\nand a lot more"), AssertionError("rows"), KeyError("rows")]
)
def test_whatever_a_models_code_raises_is_said(error: Exception) -> None:
    model = models.llama()

    def fail(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > 1:
            raise error

    model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(
        ModelError, match=r"cannot be run on 2 texts of 8 tokens, which .*rows.*; choose another"
    ):
        try_model(model, **TEXTS)


def test_models_of_several_parts_are_read_by_their_text(tmp_path: Path) -> None:
    """Their limits, padding and vocabulary stand in the config of the part that reads text."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts = {"text_config": DECODER, "vision_config": vision | {"image_size": 28, "patch_size": 14}}
    folder = write_checkpoint(tmp_path, "Gemma3ForConditionalGeneration", **parts)
    for task in ("sequence-classification", "causal-lm"):
        base = load(folder, task=task)
        assert (base.limit, base.reader.tokens, base.reader.padding) == (32, DECODER["vocab_size"], 0)
    assert load(folder, model={"pooling": "mean"}).head == ("score",)
