"""Which method finds a model's per-example gradients, and what no method may be used for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from client.training.gradient_check import choose_gradients
from client.training.gradients import HookedGradients, OneByOne
from client.training.stacked_gradients import StackedGradients
from client.training.training import Trainer
from client.training.unit_check import check_privacy_unit
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.job import TrainingSection
from tasks.model.adapted_model import AdaptedModel
from tests.models import CASES, adapt, bert, make_examples, make_job, qwen2_moe, random_adapter

LLAMA = CASES["llama-qv"]
BERT = CASES["bert-qv-head"]


def mixture() -> AdaptedModel:
    """A model whose shared expert sees tokens in place of examples."""
    return adapt(qwen2_moe(), make_job(targets=["shared_expert.gate_proj"]))


@pytest.mark.parametrize("name", ["bert-qv-head", "llama-qv", "gpt2-c_attn"])
def test_linear_layers_are_stacked(name: str) -> None:
    assert isinstance(choose_gradients(CASES[name].adapted()), StackedGradients)


def test_a_model_that_hides_its_examples_from_hooks_is_trained_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    method = choose_gradients(mixture())
    assert isinstance(method, OneByOne)
    assert "shared_expert.gate_proj" in caplog.text
    check_privacy_unit(method, method.adapted.probe())


def test_one_by_one_is_gradient_descent_too() -> None:
    adapted, examples = mixture(), make_examples((3, 5, 7, 4))
    start = random_adapter(adapted)
    adapted.load(start)
    loss = adapted.forward(examples.batch(np.arange(4))).losses.mean()
    gradients = torch.autograd.grad(loss, list(adapted.trained.values()))
    plan = SampledPlan(
        mechanism=Mechanism(name="none", multiplier=0.0),
        clipping_norm=1e6,
        sampling_rate=1.0,
        steps=1,
        delta=1e-5,
    )
    update = Trainer(OneByOne(adapted)).train(
        start,
        examples,
        training=TrainingSection(rounds=1, batch_size=4, physical_batch_size=4, learning_rate=0.1),
        plan=plan,
        round_number=1,
        entropy=keyed_entropy(0, "site"),
        activations=None,
    )
    descent = -0.1 * np.concatenate([gradient.numpy().ravel() for gradient in gradients])
    # The update is a difference of float32 numbers near 1: 2^-24 of them.
    np.testing.assert_allclose(update, descent, atol=5e-7)
    assert np.abs(descent).max() > 1e-4


def test_one_by_one_leaves_out_what_a_tensor_takes_no_part_in() -> None:
    adapted = LLAMA.adapted()
    layer = adapted.peft.get_submodule("base_model.model.model.layers.1.self_attn.v_proj")
    layer.forward = layer.base_layer.forward
    with pytest.raises(PrivacyUnitError, match=r"layers\.1\.self_attn\.v_proj.* took no part"):
        check_privacy_unit(OneByOne(adapted), LLAMA.examples())


def test_one_by_one_does_not_excuse_a_memory() -> None:
    adapted, held = LLAMA.adapted(), [torch.zeros(16)]

    def remember(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        last, held[0] = held[0], args[0].detach().mean((0, 1))
        return output + last

    adapted.peft.get_submodule("base_model.model.model.layers.0.mlp").register_forward_hook(remember)
    with pytest.raises(PrivacyUnitError, match="remembers the batch before"):
        check_privacy_unit(choose_gradients(adapted), LLAMA.examples())


class Averaged(nn.Module):
    """Keeps a mean of what it saw, in whatever mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(hidden)
        self.mean.lerp_(found.detach().mean((0, 1)), 0.1)
        return found


@pytest.mark.parametrize("kind", [StackedGradients, HookedGradients, OneByOne])
def test_a_running_mean_of_examples_is_refused(
    kind: type[StackedGradients] | type[HookedGradients] | type[OneByOne],
) -> None:
    """Each example has a gradient of its own, and yet is in what others are measured by."""
    model = bert()
    model.bert.encoder.layer[0].output.dense = Averaged(model.bert.encoder.layer[0].output.dense)
    adapted = adapt(model, make_job(targets=BERT.targets, task=BERT.task))
    with pytest.raises(PrivacyUnitError, match=r"dense\.mean changes while examples are computed"):
        check_privacy_unit(kind(adapted), BERT.examples())


def test_layers_that_take_no_part_are_told_with_others_to_name() -> None:
    """Two of this model's layers have names that end alike, and one of them is not used."""
    model = bert(pooling="mean")
    model.bert.encoder.layer[1].output.spare = nn.ModuleDict({"dense": nn.Linear(16, 16)})
    adapted = adapt(model, make_job(targets=["dense", "query"], task=BERT.task, pooling="mean"))
    with pytest.raises(PrivacyUnitError) as caught:
        check_privacy_unit(choose_gradients(adapted), adapted.probe())
    told = str(caught.value)
    assert "layer.1.output.spare.dense.lora_A.weight took no part in the loss" in told
    assert told.endswith('such as ["intermediate.dense", "output.dense", "query"]')
