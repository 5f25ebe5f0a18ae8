"""Layers that are computed again on the way back: the same gradients, less that is kept for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.training.gradient_check import check_gradients, choose_gradients, comparable
from client.training.gradients import HookedGradients, OneByOne, alone, losses
from client.training.stacked_gradients import StackedGradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import JobError, ModelError, PrivacyUnitError
from protocol.job.adapter_section import no_adapter
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.registry import section_of
from tests.models import adapt, bert, gpt2, llama, make_examples, make_job, mixtral, random_adapter

SIZES = (5, 9, 3, 7)
TABLE = {"source": "none", "label": "label", "labels": ["a", "b"], "numbers": {"x": [0.0, 1.0]}}


def model(
    build: Any = llama, *, checkpointing: bool = True, layers: int = 4, targets: Any = None, **sections: Any
) -> AdaptedModel:
    named = targets or {llama: ["q_proj", "v_proj"], gpt2: ["c_attn"], bert: ["query", "value"]}[build]
    base = {"source": "a tiny random model", "checkpointing": checkpointing}
    task = "sequence-classification" if build is bert else "causal-lm"
    return adapt(build(layers=layers), make_job(targets=named, task=task, model=base, **sections))


def kept_bytes(adapted: AdaptedModel, sizes: tuple[int, ...]) -> int:
    """What a forward pass keeps for the way back, but for weights; each tensor counts once."""
    weights = {p.data_ptr() for p in adapted.peft.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)  # or another tensor would get its place
        return tensor

    held: list[torch.Tensor] = []
    examples = make_examples(sizes)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses(adapted)(examples.batch(np.arange(len(sizes)))).sum()
    return sum(found.values())


def test_an_adapter_on_routed_experts_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.checkpointing: expected false with .* routed experts"):
        model(mixtral, targets=["experts"])


def test_a_network_that_is_drawn_is_refused() -> None:
    drawn = {"source": "drawn", "checkpointing": True}
    job = make_job(targets=[], task="tabular", model=drawn, data=TABLE)
    job = job.model_copy(update={"adapter": no_adapter()})
    with pytest.raises(JobError, match=r"checkpointing: expected false with model\.source=\"drawn\""):
        section_of(job)


def test_hooks_are_refused_and_each_example_is_computed_alone(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PrivacyUnitError, match=r"model\.checkpointing: expected false .* hooks"):
        HookedGradients(model())
    method = choose_gradients(model(gpt2, adapter={"bias": "lora_only"}))
    assert isinstance(method, OneByOne)
    assert "model.checkpointing" in caplog.text
    check_privacy_unit(method, method.adapted.probe())


def test_hooks_that_nobody_refuses_are_caught_by_the_unit_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake that is refused by name: Opacus' hooks on layers that are computed twice."""
    adapted = model()
    adapted.recomputed_for = None
    method = HookedGradients(adapted)
    with pytest.raises(PrivacyUnitError):
        check_privacy_unit(method, adapted.probe())


@pytest.mark.parametrize("build", [llama, gpt2, bert])
def test_gradients_are_those_of_a_batch_of_one_without_it(build: Any) -> None:
    adapted, plain = model(build), model(build, checkpointing=False)
    examples = make_examples(SIZES, labelled=build is bert)
    for one in (adapted, plain):
        one.peft.double()
        one.load(random_adapter(one))
        one.peft.train()
    found = StackedGradients(adapted).backward(examples.batch(np.arange(4), rows=5), losses(adapted))
    for row in range(len(SIZES)):
        single = alone(plain, examples.batch(np.array([row])), losses(plain))
        size = torch.stack([gradient.norm() for gradient in single.values() if gradient is not None]).norm()
        for name, gradient in single.items():
            assert gradient is not None
            # Llama's norms compute in float32, whose last bits depend on a batch and on the processor.
            assert (found[name][row] - gradient).norm() <= 1e-5 * size, name


def test_gradients_are_the_same_bits_with_it_and_without_in_a_batch_with_dropout() -> None:
    found = []
    for checkpointing in (True, False):
        silent = {"mechanism": "none"}
        adapted = model(checkpointing=checkpointing, adapter={"dropout": 0.3}, privacy=silent)
        adapted.load(random_adapter(adapted))
        adapted.peft.train()
        torch.manual_seed(1)
        batch = make_examples(SIZES).batch(np.arange(4))
        found.append(StackedGradients(adapted).backward(batch, losses(adapted)))
    for name, gradients in found[0].items():
        assert torch.equal(gradients, found[1][name]), name


def test_gradients_from_kept_activations_are_the_same() -> None:
    """A hook puts them in a layer's place, and is gone when the layer is computed again."""
    found = []
    examples = make_examples(SIZES)
    for checkpointing in (True, False):
        adapted = model(checkpointing=checkpointing, adapter={"layers_to_transform": [2, 3]})
        adapted.load(random_adapter(adapted))
        kept = Activations(FrozenPrefix(adapted), examples)
        assert kept.work
        adapted.peft.train()
        kept.fill(np.arange(4))
        batch = examples.batch(np.arange(4))
        found.append(StackedGradients(adapted).backward(batch, losses(adapted, kept)))
        plain = StackedGradients(adapted).backward(batch, losses(adapted))
        for name, gradients in found[-1].items():
            torch.testing.assert_close(gradients, plain[name], rtol=1e-4, atol=1e-6)
    for name, gradients in found[0].items():
        assert torch.equal(gradients, found[1][name]), name


def test_pairs_and_the_whole_unit_check_pass() -> None:
    base = {"source": "a tiny random model", "checkpointing": True}
    job = make_job(targets=["q_proj", "v_proj"], task="preferences", model=base)
    adapted = adapt(llama(), job)
    method = choose_gradients(adapted)
    assert isinstance(method, StackedGradients)
    with comparable(adapted):
        check_gradients(method, adapted.probe())
    check_privacy_unit(method, adapted.probe())


def test_less_is_kept_for_the_way_back() -> None:
    sizes = (40,) * 8
    with_it, without = (kept_bytes(model(checkpointing=on, layers=6), sizes) for on in (True, False))
    # Of each layer its input, [8, 40, 16] float32, in place of some twenty such; the head is in both.
    head = kept_bytes(model(checkpointing=True, layers=1), sizes)
    assert with_it - head < (without - head) / 8
