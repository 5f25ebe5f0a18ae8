"""One token fills texts up, for model and tokenizer, and no loss depends on how much of it there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privacy.errors import ModelError
from tests.adversary.hostile_models import change_json
from tests.tasks.model.checkpoints import (
    DECODER,
    ENCODER,
    GPT2,
    VOCABULARY,
    adapt,
    load,
    write_checkpoint,
    write_tokenizer,
)

NONE = {"pad_token": None, "eos_token": None}
# The config's ids, the tokenizer's tokens, and what becomes the padding.
PADDINGS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "both say the same": ({}, {}, 0),
    "the tokenizer's counts": ({"pad_token_id": 1}, {"pad_token": "</s>"}, 3),
    "the config has -1": ({"pad_token_id": -1}, {}, 0),
    "the end of text": ({"pad_token_id": None}, {"pad_token": None}, 3),
    "added by hand, past the model's tokens": ({}, {"pad_token": "[PAD]"}, 3),
    "of the config alone": ({"pad_token_id": 2}, NONE, 2),
    "the config's end of text": ({"pad_token_id": None}, NONE, 3),
    "one of several ends": ({"pad_token_id": None, "eos_token_id": [99, 3]}, NONE, 3),
}


@pytest.mark.parametrize("name", PADDINGS)
def test_there_is_one_padding(name: str, tmp_path: Path) -> None:
    ids, special, expected = PADDINGS[name]
    folder = write_checkpoint(tmp_path, "LlamaForCausalLM", **DECODER | ids)
    write_tokenizer(folder, **special)
    for task in ("sequence-classification", "causal-lm"):
        base = load(folder, task=task)
        assert base.reader.padding == expected
        assert base.reader.tokenizer.pad_token_id == expected
        assert base.model.config.pad_token_id == expected


def test_a_padding_is_asked_for_where_none_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "GPT2LMHeadModel", **GPT2, bos_token_id=None, eos_token_id=None)
    write_tokenizer(folder, **NONE)
    with pytest.raises(ModelError, match=r"name one in model\.padding, such as '<pad>'"):
        load(folder)
    assert load(folder, model={"padding": "<unk>"}).reader.padding == 1
    with pytest.raises(ModelError, match=r"model\.padding='nothing': expected a token"):
        load(folder, model={"padding": "nothing"})
    # What fills texts up is the job's business: the model is the same.
    assert (
        load(folder, model={"padding": "<pad>"}).digest == load(folder, model={"padding": "<unk>"}).digest
    )


def test_a_tokenizer_that_pads_otherwise_than_positions_are_counted_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "RobertaModel", **ENCODER)
    change_json(folder / "config.json", lambda table: table.update(pad_token_id=1))
    with pytest.raises(
        ModelError, match="counts positions by the padding 1, and the tokenizer pads with 0"
    ):
        load(folder)


@pytest.mark.parametrize(
    ("kind", "task", "pooling"),
    [
        ("LlamaForCausalLM", "causal-lm", "model"),
        ("LlamaForCausalLM", "sequence-classification", "model"),
        ("LlamaForCausalLM", "sequence-classification", "mean"),
        ("GraniteForCausalLM", "sequence-classification", "model"),
        ("RobertaModel", "sequence-classification", "model"),
    ],
)
def test_a_loss_does_not_depend_on_padding(kind: str, task: str, pooling: str, tmp_path: Path) -> None:
    """Whatever config and tokenizer said; the texts have the config's padding among their words."""
    folder = write_checkpoint(tmp_path, kind, **(ENCODER if kind == "RobertaModel" else DECODER))
    if kind != "RobertaModel":
        change_json(folder / "config.json", lambda table: table.update(pad_token_id=5))
    adapted = adapt(folder, task=task, model={"pooling": pooling})
    random = np.random.default_rng(0)
    adapted.load((0.3 * random.standard_normal(adapted.layout.adapter_size)).astype(np.float32))
    examples = adapted.task.made_up(adapted, random, np.array([2, 5, 8]))
    assert examples.tokens.min() > 0
    with torch.no_grad():
        alone = [adapted.forward(examples.batch(np.array([n]))).losses for n in range(3)]
        together = adapted.forward(examples.batch(np.arange(3), size=12, rows=5)).losses[:3]
    # float32 sums of a few hundred terms in another order.
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "LlamaForCausalLM", **DECODER)
    write_tokenizer(folder, extra=("more",))
    with pytest.raises(
        ModelError, match=f"makes tokens up to {len(VOCABULARY)}, and the model knows those below"
    ):
        load(folder)
