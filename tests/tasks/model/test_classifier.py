"""A classifier's head: one layer of it is trained, from zero or from what the checkpoint has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from privacy.errors import ModelError
from tests.tasks.model.checkpoints import (
    DECODER,
    DISTILBERT,
    ENCODER,
    LABELS,
    adapt,
    load,
    logits,
    write_checkpoint,
)

TEXTS = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])
# What a checkpoint was saved as, and the head that a classifier of its family gets.
HEADS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "bert": ("BertModel", ENCODER, "model", "classifier"),
    "bert, of tokens": ("BertModel", ENCODER, "mean", "classifier"),
    "roberta, two layers": ("RobertaModel", ENCODER, "model", "classifier.out_proj"),
    "electra, two layers": (
        "ElectraModel",
        ENCODER | {"embedding_size": 16},
        "model",
        "classifier.out_proj",
    ),
    "distilbert, one before": ("DistilBertModel", DISTILBERT, "model", "classifier"),
    "llama": ("LlamaForCausalLM", DECODER, "model", "score"),
    "granite, without a class": ("GraniteForCausalLM", DECODER, "model", "score"),
    "granite, of tokens": ("GraniteForCausalLM", DECODER, "mean", "score"),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_last_layer_alone_is_trained_from_zero_and_learns(name: str, tmp_path: Path) -> None:
    kind, config, pooling, layer = HEADS[name]
    adapted = adapt(write_checkpoint(tmp_path, kind, **config), model={"pooling": pooling})
    heads = {slot.name: slot for slot in adapted.layout.slots if ".lora_" not in slot.name}
    assert {head.removeprefix("base_model.model.").rpartition(".")[0] for head in heads} == {layer}
    assert not any(adapted.trained[head].any() for head in heads)
    adapted.load(adapted.initial_adapter(0))
    examples = adapted.task.made_up(adapted, np.random.default_rng(0), np.array([5, 3]))
    loss = adapted.forward(examples.batch(np.arange(2))).losses
    # Under a head of zeros all labels are alike.
    torch.testing.assert_close(loss, torch.full((2,), float(np.log(len(LABELS)))))
    weights = [adapted.trained[head] for head in heads]
    for gradient in torch.autograd.grad(loss.sum(), weights):
        assert gradient.abs().max() > 1e-3  # with all layers zero, all but a bias had none


def test_layers_under_the_last_one_are_as_the_checkpoint_has_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "RobertaForSequenceClassification", **ENCODER, num_labels=5)
    base = load(folder)
    saved = load_file(folder / "model.safetensors")["classifier.dense.weight"]
    assert torch.equal(base.model.classifier.dense.weight, saved)
    assert base.drawn == ()
    assert "is left out, and a new one starts at zero" in base.remarks[0]


def named(*labels: str) -> dict[str, Any]:
    return ENCODER | {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "RobertaForSequenceClassification"])
def test_a_trained_head_is_kept_with_its_labels_found_by_name(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = write_checkpoint(tmp_path, kind, **named("yes", "both", "no"))
    base = load(folder, model={"head": "checkpoint"})
    theirs = logits(AutoModelForSequenceClassification.from_pretrained(folder), TEXTS)
    # The same rows of one product: the order of the outputs is all that differs.
    torch.testing.assert_close(logits(base.model, TEXTS), theirs[:, [2, 0, 1]])
    assert base.model.config.id2label == dict(enumerate(LABELS))
    assert base.remarks == ()


@pytest.mark.parametrize(
    ("kind", "labels", "pooling", "reason"),
    [
        (
            "BertForSequenceClassification",
            ("no", "yes"),
            "model",
            r"tells 'no', 'yes' apart, and the job 'no', 'yes', 'both'",
        ),
        ("BertForSequenceClassification", ("a", "b", "c"), "model", "list the same labels in data.labels"),
        (
            "BertForSequenceClassification",
            LABELS,
            "mean",
            "saved as BertForTokenClassification, got one saved as 'BertFor",
        ),
        (
            "BertForMaskedLM",
            LABELS,
            "model",
            "expected a checkpoint saved as BertForSequenceClassification",
        ),
    ],
)
def test_a_head_that_is_not_the_jobs_is_refused(
    kind: str, labels: tuple[str, ...], pooling: str, reason: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, kind, **named(*labels))
    with pytest.raises(ModelError, match=reason) as raised:
        load(folder, model={"head": "checkpoint", "pooling": pooling})
    assert "model.head" in str(raised.value)


def test_a_class_made_here_computes_what_it_says(tmp_path: Path) -> None:
    """The last real token, or each, under one linear layer."""
    from transformers import AutoModel

    folder = write_checkpoint(tmp_path, "GraniteForCausalLM", **DECODER)
    backbone = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        hidden = backbone(input_ids=TEXTS, attention_mask=mask).last_hidden_state
    for pooling, expected in (("model", hidden[[0, 1], [3, 1]]), ("mean", hidden)):
        model = load(folder, model={"pooling": pooling}).model
        torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            found = model(input_ids=TEXTS, attention_mask=mask).logits
        # One product of the same numbers.
        torch.testing.assert_close(found, functional.linear(expected, model.score.weight))


def test_an_encoder_with_a_decoder_classifies_by_its_tokens_alone(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = sizes | {"vocab_size": ENCODER["vocab_size"], "decoder_start_token_id": 0}
    folder = write_checkpoint(tmp_path, "T5ForConditionalGeneration", **config)
    assert load(folder, model={"pooling": "mean"}).head == ("classifier",)
    with pytest.raises(ModelError, match=r'choose model\.pooling="mean"'):
        load(folder)
