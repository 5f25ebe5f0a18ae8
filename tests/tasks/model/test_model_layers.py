"""Where a model has its layers, which number one has, and which linear layers take part in a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from privacy.errors import ModelError
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.model.model_layers import count_layers, layer_lists, layer_number, linear_layers, text_part
from tests.models import CASES, adapt, bert, gpt2, llama, make_job

SIZES: Mapping[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
TOP = {"adapter": {"layers_to_transform": "top 50%"}}


def albert() -> nn.Module:
    """Three layers with the weights of one."""
    from transformers import AlbertConfig, AlbertForTokenClassification

    return AlbertForTokenClassification(AlbertConfig(**SIZES, embedding_size=8, num_labels=3))


def funnel() -> nn.Module:
    """Blocks of layers."""
    from transformers import FunnelConfig, FunnelForTokenClassification

    sizes = {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "num_decoder_layers": 1}
    return FunnelForTokenClassification(
        FunnelConfig(vocab_size=50, block_sizes=[2, 2], num_labels=3, **sizes)
    )


def gemma3() -> nn.Module:
    """A tower for images, with as many layers, beside the one for text."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    config = Gemma3Config(
        text_config={**SIZES, "head_dim": 8, "num_key_value_heads": 1},
        vision_config={**SIZES, "image_size": 8, "patch_size": 4},
        mm_tokens_per_image=4,
    )
    return Gemma3ForConditionalGeneration(config)


def llama4() -> nn.Module:
    """A router that is a linear layer, and gives scores beside logits."""
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    sizes = {"intermediate_size_mlp": 32, "num_local_experts": 4, "moe_layers": [1], "head_dim": 8}
    return Llama4ForCausalLM(Llama4TextConfig(**SIZES, **sizes))


def t5() -> nn.Module:
    """Lists inside of layers, and two stacks."""
    from transformers import T5Config, T5ForTokenClassification

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "num_labels": 3}
    return T5ForTokenClassification(T5Config(vocab_size=50, **sizes))


def xlm() -> nn.Module:
    """A layer's attention in one list, and the rest of it in others."""
    from transformers import XLMConfig, XLMForTokenClassification

    return XLMForTokenClassification(XLMConfig(n_words=50, emb_dim=16, n_layers=3, n_heads=2, num_labels=3))


@pytest.mark.parametrize(
    ("model", "name", "number"),
    [
        (lambda: bert(layers=3), "bert.encoder.layer.2.attention.self.query", 2),
        (lambda: bert(layers=3), "bert.pooler.dense", None),
        (lambda: gpt2(layers=3), "transformer.h.1.attn.c_attn", 1),
        (lambda: llama(layers=3), "lm_head", None),
        (t5, "transformer.encoder.block.2.layer.1.DenseReluDense.wi", 2),
        (gemma3, "model.language_model.layers.1.self_attn.q_proj", 1),
        (gemma3, "model.vision_tower.encoder.layers.1.self_attn.q_proj", None),
        (xlm, "transformer.attentions.1.q_lin", 1),
        (xlm, "transformer.ffns.2.lin1", 2),
    ],
)
def test_a_number_is_that_of_the_text_parts_layers(model: Any, name: str, number: int | None) -> None:
    made = model()
    made.get_submodule(name)
    assert layer_number(name, layer_lists(made)) == number
    assert count_layers(made) == 3


@pytest.mark.parametrize(("model", "kind"), [(albert, "albert"), (funnel, "funnel")])
def test_layers_that_are_shared_or_nested_are_not_chosen_by_number(model: Any, kind: str) -> None:
    with pytest.raises(ModelError, match=rf"adapter\.layers_to_transform: {kind} has no plain list"):
        count_layers(model())


def test_a_model_without_a_config_has_no_list_of_layers() -> None:
    with pytest.raises(ModelError, match="Sequential has no plain list"):
        count_layers(nn.Sequential(nn.ModuleList([nn.Linear(2, 2)])))


def test_only_the_part_that_reads_text_has_linear_layers() -> None:
    model = gemma3()
    assert text_part(model) == "model.language_model"
    names = [name for name, _ in linear_layers(model)]
    assert names
    assert all(name.startswith("model.language_model.layers.") for name in names)
    assert text_part(llama()) == ""


def test_a_router_that_gives_more_than_a_tensor_is_no_linear_layer() -> None:
    model = llama4()
    router = model.get_submodule("model.layers.1.feed_forward.router")
    assert isinstance(router, nn.Linear)
    names = {name for name, _ in linear_layers(model)}
    assert "model.layers.1.feed_forward.router" not in names
    assert "model.layers.1.self_attn.q_proj" in names


class Scaled(nn.Linear):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(hidden)


def test_a_linear_layer_with_a_way_of_its_own_is_one() -> None:
    assert [name for name, _ in linear_layers(nn.Sequential(Scaled(2, 2)))] == ["0"]


def test_targets_that_no_chosen_layer_has_are_refused() -> None:
    model = llama(layers=3)
    model.model.layers[2].mlp = nn.Identity()
    with pytest.raises(ModelError, match=r"none of up_proj is in layer 2; expected one of 0, 1"):
        adapt(model, make_job(targets=["up_proj"], adapter={"layers_to_transform": [2]}))


def test_adapters_are_in_the_text_part_alone() -> None:
    adapted = adapt(gemma3(), make_job(targets=["q_proj"], **TOP))
    assert {name.partition(".self_attn")[0] for name in adapted.trained} == {
        "base_model.model.model.language_model.layers.1",
        "base_model.model.model.language_model.layers.2",
    }


# What keeping activations would be wrong for.


def test_layers_that_read_padding_are_computed_each_time() -> None:
    """Kept activations have zeros in place of padding."""
    model = bert(layers=3)
    upper = model.bert.encoder.layer[2]
    upper.register_forward_pre_hook(
        lambda _module, args: (args[0] + args[0].mean(1, keepdim=True), *args[1:])
    )
    case = CASES["bert-qv-head"]
    adapted = adapt(model, make_job(targets=case.targets, task=case.task, **TOP))
    assert FrozenPrefix(adapted).depth == 1
    assert not Activations(FrozenPrefix(adapted), case.examples()).work


def test_rows_that_are_no_examples_between_the_layers_are_computed_each_time() -> None:
    from transformers import XLNetConfig, XLNetForTokenClassification

    model = XLNetForTokenClassification(
        XLNetConfig(vocab_size=50, d_model=16, n_layer=3, n_head=2, d_inner=32, num_labels=3)
    )
    case = CASES["bert-qv-mean"]
    # As many tokens as the probe has rows: the shapes alone would not tell.
    data = {"source": "none", "label": "label", "labels": ["a", "b", "c"], "max_length": 3}
    job = make_job(targets=["layer_1"], task=case.task, pooling="mean", data=data, **TOP)
    adapted = adapt(model, job)
    assert FrozenPrefix(adapted).depth == 1
    assert not Activations(FrozenPrefix(adapted), case.examples()).work
