"""Rows of a batch that are each computed with weights of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.training.gradients import losses
from client.training.stacked_gradients import StackedGradients
from privacy.errors import PrivacyUnitError
from tasks.model.adapted_model import AdaptedModel
from tests.models import CASES, adapt, make_job, qwen2_moe, random_adapter

CASE = CASES["bert-qv-head"]
SIZES = (3, 5, 7, 4)


def tensors(adapted: AdaptedModel, seed: int) -> dict[str, torch.Tensor]:
    """Another random adapter's trained tensors; it stays loaded."""
    adapted.load((1 + seed) * random_adapter(adapted))
    return {name: parameter.detach().clone() for name, parameter in adapted.trained.items()}


def test_a_row_has_the_gradient_that_its_own_weights_give_it() -> None:
    adapted, examples = CASE.adapted(), CASE.examples(SIZES)
    method = StackedGradients(adapted)
    adapters = [tensors(adapted, seed) for seed in range(len(SIZES))]
    batch = examples.batch(np.arange(len(SIZES)), rows=len(SIZES) + 1)
    expected = []
    for row in range(len(SIZES)):
        tensors(adapted, row)
        expected.append({name: rows[row] for name, rows in method.backward(batch, losses(adapted)).items()})
    stacked = {name: torch.stack([one[name] for one in [*adapters, adapters[0]]]) for name in adapters[0]}

    found = method.backward_with(stacked, batch, losses(adapted))

    # The same products of the same numbers, row by row: to the last bit.
    for name, rows in found.items():
        assert len(rows) == len(SIZES)
        for row, one in enumerate(expected):
            assert torch.equal(rows[row], one[name]), name
    assert not torch.equal(expected[0][name], expected[1][name])


def test_the_model_is_plain_before_and_after() -> None:
    adapted, examples = CASE.adapted(), CASE.examples(SIZES)
    method, batch = StackedGradients(adapted), examples.batch(np.arange(len(SIZES)))
    adapted.load(random_adapter(adapted))
    before = adapted.forward(batch).losses
    method.backward(batch, losses(adapted))
    assert torch.equal(adapted.forward(batch).losses, before)
    with pytest.raises(RuntimeError, match="stop here"):
        method.backward(batch, lambda _batch: (_ for _ in ()).throw(RuntimeError("stop here")))
    assert torch.equal(adapted.forward(batch).losses, before)
    assert all(parameter.grad is None for parameter in adapted.trained.values())


def test_rows_that_are_tokens_are_seen() -> None:
    adapted = adapt(qwen2_moe(), make_job(targets=["shared_expert.gate_proj"]))
    examples = CASES["llama-qv"].examples(SIZES)
    with pytest.raises(PrivacyUnitError, match="such as tokens, as examples"):
        StackedGradients(adapted).backward(examples.batch(np.arange(len(SIZES))), losses(adapted))


def test_a_layer_that_is_not_linear_is_none_of_this_methods() -> None:
    adapted = CASE.adapted()
    layer = adapted.peft.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query")
    layer.lora_A.default.forward = lambda values: values
    with pytest.raises(PrivacyUnitError, match=r"query\.lora_A\.weight is not of a plain linear layer"):
        StackedGradients(adapted)
