"""Each way to have an adapter: its examples' gradients are their own, and it passes the unit check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from client.training.gradient_check import choose_gradients
from client.training.gradients import HookedGradients, OneByOne, losses
from client.training.row_check import UnequalWeights
from client.training.stacked_gradients import StackedGradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import ModelError, PrivacyUnitError
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import FrozenPrefix
from tests.client.training.test_per_example_gradients import RELATIVE, furthest
from tests.models import CASES, adapt, bert, make_job, random_adapter

FEDSB: dict[str, Any] = {"strategy": {"name": "fedsb"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"adapter": {"scaling": "rslora", "rank": 4}},
    "patterns": {
        "adapter": {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"layers.0.self_attn.q_proj": 9.0}}
    },
    "pissa": {"adapter": {"init": "pissa"}},
    "olora": {"adapter": {"init": "olora"}},
    "biases of adapted layers": {"adapter": {"bias": "lora_only"}},
    "all biases": {"adapter": {"bias": "all"}},
    "a core": FEDSB,
}
# Of Llama's layers none has a bias; of GPT-2's c_attn is neither nn.Linear nor named as the pattern is.
TRIALS = [
    ("llama-qv", "rslora", StackedGradients),
    ("llama-qv", "patterns", StackedGradients),
    ("llama-qv", "pissa", StackedGradients),
    ("gpt2-c_attn", "olora", StackedGradients),
    ("bert-qv-head", "biases of adapted layers", StackedGradients),
    ("gpt2-c_attn", "biases of adapted layers", HookedGradients),
    ("bert-qv-head", "all biases", HookedGradients),
    ("bert-qv-head", "a core", StackedGradients),
    ("gpt2-c_attn", "a core", StackedGradients),
]


@pytest.mark.parametrize(("case", "variant", "kind"), TRIALS)
@pytest.mark.exhaustive(but=3)
def test_an_examples_gradient_is_its_own_and_the_unit_check_passes(
    case: str, variant: str, kind: type[StackedGradients | HookedGradients]
) -> None:
    adapted, reference = (CASES[case].adapted(**VARIANTS[variant]) for _ in range(2))
    examples = CASES[case].examples()
    method = choose_gradients(adapted)
    assert isinstance(method, kind)
    check_privacy_unit(method, adapted.probe())
    for one in (adapted, reference):
        one.load(random_adapter(one))
    adapted.peft.train()
    for way in (method, OneByOne(adapted)):
        found = way.backward(examples.batch(np.arange(len(examples))), losses(adapted))
        assert furthest(found, reference, examples) < RELATIVE


def test_rows_of_several_sites_have_cores_of_their_own() -> None:
    case = CASES["bert-qv-head"]
    adapted, examples = case.adapted(**FEDSB), case.examples()
    adapter = random_adapter(adapted)
    adapted.load(adapter)
    adapted.peft.train()
    batch = examples.batch(np.arange(4))
    found = UnequalWeights(adapted).backward(batch, losses(adapted))
    for row in range(4):
        tensors = adapted.layout.split(adapter.copy())
        for name in adapted.trained:
            tensors[name] *= np.float32(1 + row / 16)  # views: the adapter itself
        own = case.adapted(**FEDSB)
        own.load(adapted.layout.join(tensors))
        own.peft.train()
        expected = OneByOne(own).backward(examples.batch(np.array([row])), losses(own))
        size = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
        for name, gradient in expected.items():
            assert float((found[name][row] - gradient[0]).norm() / size) < RELATIVE


def test_a_core_alone_is_trained_and_is_small() -> None:
    adapted = CASES["llama-qv"].adapted(adapter={"rank": 4}, **FEDSB)
    assert {tuple(p.shape) for p in adapted.trained.values()} == {(4, 4)}
    assert all(name.endswith(".lora_C.weight") for name in adapted.trained)
    assert adapted.layout.update_size == 4 * 16  # two layers of two targets


def test_a_core_that_is_trained_with_the_factors_is_seen() -> None:
    """The check finds what is trained by itself: by the job's words, not by the model's marks."""
    adapted = CASES["llama-qv"].adapted(**FEDSB)
    next(p for n, p in adapted.peft.named_parameters() if ".lora_A." in n).requires_grad_(True)
    with pytest.raises(PrivacyUnitError, match=r"trainable but not in the adapter.s layout"):
        check_privacy_unit(OneByOne(adapted), adapted.probe())


@pytest.mark.parametrize("case", ["llama-qv", "gpt2-c_attn", "bert-qv-head"])
@pytest.mark.parametrize("variant", ["pissa", "olora", "a core", "all biases"])
def test_the_first_adapter_changes_nothing_that_the_base_model_computes(case: str, variant: str) -> None:
    plain, adapted = CASES[case].adapted(), CASES[case].adapted(**VARIANTS[variant])
    examples = CASES[case].examples()
    for one in (plain, adapted):
        one.load(one.initial_adapter(0))
        one.peft.eval()
    batch = examples.batch(np.arange(4))
    with torch.no_grad():
        expected, found = plain.forward(batch).losses, adapted.forward(batch).losses
        adapted.load(np.zeros_like(adapted.initial_adapter(0)))
        without = adapted.forward(batch).losses
    # Weights are less by what the adapter adds: two roundings of each, 2^-24, through tens of layers' sums.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if variant in ("pissa", "olora"):
        assert (without - expected).abs().max() > 1e-3  # what was taken out is in the adapter


@pytest.mark.parametrize("case", ["llama-qv", "gpt2-c_attn"])
@pytest.mark.parametrize("variant", ["pissa", "olora", "a core", "rslora"])
def test_merged_it_computes_the_same(case: str, variant: str) -> None:
    adapted, examples = CASES[case].adapted(**VARIANTS[variant]), CASES[case].examples()
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    batch = examples.batch(np.arange(4))
    with torch.no_grad():
        adapter = adapted.forward(batch).losses
        adapted.peft = adapted.peft.merge_and_unload()
        merged = adapted.forward(batch).losses
        adapted.peft = None
    torch.testing.assert_close(merged, adapter, rtol=1e-4, atol=1e-5)


def test_two_machines_take_out_the_same_to_rounding() -> None:
    """Each finds its part by itself; that from another order of sums, as of another processor, agrees."""
    adapted, turned = (CASES["llama-qv"].adapted(adapter={"init": "pissa"}) for _ in range(2))
    one = turned.peft.get_submodule(pairs(turned)[0]).get_base_layer().weight
    same = adapted.peft.get_submodule(pairs(adapted)[0]).get_base_layer().weight
    assert torch.equal(one, same)
    assert adapted.model_digest == turned.model_digest
    assert np.array_equal(adapted.initial_adapter(0), turned.initial_adapter(1))  # no draw is in it


def pairs(adapted: AdaptedModel) -> list[str]:
    return [name for name, module in adapted.peft.named_modules() if isinstance(module, LoraLayer)]


def test_a_pattern_that_names_no_layer_or_a_layer_twice_is_refused() -> None:
    for pattern, words in (
        ({"k_proj": 3}, r"adapter\.rank_pattern\.k_proj: expected the end of the name"),
        ({"v_proj": 3, "self_attn.v_proj": 2}, r"both name .*v_proj: expected one"),
        ({"q_proj": 17}, r"adapter\.rank_pattern: expected at most 16.*q_proj, got 17"),
    ):
        with pytest.raises(ModelError, match=words):
            CASES["llama-qv"].adapted(adapter={"rank_pattern": pattern}).initial_adapter(0)


def test_columns_that_depend_on_one_another_have_no_qr_to_begin_with() -> None:
    model = bert()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:  # type: ignore[union-attr]
            layer.attention.self.query.weight[:, 1] = layer.attention.self.query.weight[:, 0]
    job = make_job(targets=["query"], task="sequence-classification", adapter={"init": "olora"})
    with pytest.raises(ModelError, match="depend on one another"):
        adapt(model, job)


def test_an_embedding_is_refused_by_name() -> None:
    job = make_job(targets=["word_embeddings"], task="sequence-classification")
    with pytest.raises(ModelError, match=r"word_embeddings is an embedding, for which no gradient"):
        adapt(bert(), job)


def test_a_bias_that_nothing_uses_is_refused_with_what_to_choose() -> None:
    model = bert()
    model.beside = torch.nn.Linear(2, 2)
    job = make_job(targets=["query"], task="sequence-classification", adapter={"bias": "all"})
    adapted = adapt(model, job)
    with pytest.raises(PrivacyUnitError, match=r'beside\.bias took no part.*adapter\.bias="lora_only"'):
        check_privacy_unit(OneByOne(adapted), adapted.probe())


@pytest.mark.parametrize(("bias", "depth"), [("none", 1), ("lora_only", 1), ("all", 0)])
def test_where_lower_layers_have_trained_biases_nothing_is_kept(bias: str, depth: int) -> None:
    adapted = CASES["bert-qv-head"].adapted(adapter={"bias": bias, "layers_to_transform": [1]})
    assert FrozenPrefix(adapted).depth == depth
