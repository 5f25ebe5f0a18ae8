"""Convolutions and norms over a batch: where hooks would be wrong, each example is computed by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client.training.gradient_check import check_gradients, choose_gradients, comparable
from client.training.gradients import HookedGradients, OneByOne
from client.training.stacked_gradients import StackedGradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import ModelError, PrivacyUnitError
from protocol.job.job_file import parse_job
from tasks import registry
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel
from tasks.model.device import Device
from tests.tasks.number_table import TASK

SIDE = 4


class Pixels(nn.Module):
    """A residual block of convolutions with norms over the batch, then linear layers, for 4 × 4 numbers."""

    def __init__(self, *, padding_mode: str = "zeros", last: nn.Module | None = None) -> None:
        super().__init__()
        self.filter = nn.Conv2d(1, 4, 3, padding=1, padding_mode=padding_mode)
        self.norm, self.inner, self.inner_norm = (
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
        )
        self.first = nn.Linear(4 * SIDE * SIDE, 16)
        self.last = last or nn.Identity()
        self.classifier = nn.Linear(16, 2)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        pixels = self.norm(self.filter(numbers.view(-1, 1, SIDE, SIDE))).relu()
        pixels = (pixels + self.inner_norm(self.inner(pixels))).relu()
        logits: torch.Tensor = self.classifier(self.last(self.first(pixels.flatten(1)).tanh()))
        return logits


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of tests alone is found by its name."""
    monkeypatch.setattr(registry, "find_task", lambda _name: TASK)


def adapt(model: nn.Module, *head: str) -> AdaptedModel:
    columns = [f"pixel{number}" for number in range(SIDE * SIDE)]
    job = parse_job(
        {
            "task": "number-table",
            "model": {"source": "a tiny random model"},
            "adapter": {"rank": 2, "target_modules": ["first"]},
            "data": {"source": "none", "columns": columns, "label": "kind", "labels": ["low", "high"]},
            "strategy": {"name": "lora"},
        }
    )
    base = BaseModel(
        model=model.requires_grad_(False),
        digest="0" * 64,
        reader=SIDE * SIDE,
        head=(*head, "classifier"),
        peft_type=None,
        limit=None,
    )
    return AdaptedModel(base, job=job, device=Device(torch=torch.device("cpu"), bfloat16=False))


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_other_padding_than_zeros_is_computed_one_by_one(padding_mode: str) -> None:
    adapted = adapt(Pixels(padding_mode=padding_mode), "filter")
    with (
        comparable(adapted),
        pytest.raises(PrivacyUnitError, match=r"filter\..* differs from its gradient"),
    ):
        check_gradients(HookedGradients(adapted), adapted.probe())

    method = choose_gradients(adapt(Pixels(padding_mode=padding_mode), "filter"))
    assert isinstance(method, OneByOne)
    check_privacy_unit(method, method.adapted.probe())


def test_convolutions_padded_with_zeros_are_computed_together() -> None:
    method = choose_gradients(adapt(Pixels(), "filter"))
    assert isinstance(method, HookedGradients)
    check_privacy_unit(method, method.adapted.probe())


def test_a_frozen_norm_over_the_batch_mixes_nothing_and_keeps_nothing() -> None:
    adapted = adapt(Pixels())
    before = {name: buffer.clone() for name, buffer in adapted.peft.named_buffers()}
    method = choose_gradients(adapted)
    check_privacy_unit(method, adapted.probe())
    assert isinstance(method, StackedGradients)
    assert any("running_mean" in name for name in before)
    for name, buffer in adapted.peft.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_a_trained_norm_over_the_batch_is_refused() -> None:
    with pytest.raises(ModelError, match=r"last\.running_mean"):
        adapt(Pixels(last=nn.BatchNorm1d(16)), "last")


def forced() -> AdaptedModel:
    """A norm over the batch that does not care for its mode."""
    adapted = adapt(Pixels())
    adapted.base.model.inner_norm.forward = lambda x: nn.functional.batch_norm(x, None, None, training=True)
    return adapted


def test_a_norm_that_mixes_in_spite_of_its_mode_is_seen() -> None:
    adapted = forced()
    with pytest.raises(PrivacyUnitError, match="mixes examples"):
        check_privacy_unit(HookedGradients(adapted), adapted.probe())
    # One by one it sees a single example, over and over: what comes out is a function of that alone.
    method = choose_gradients(forced())
    assert isinstance(method, OneByOne)
    check_privacy_unit(method, method.adapted.probe())


def test_rows_of_made_up_examples_differ() -> None:
    """Else nothing above could see that rows mix."""
    adapted = adapt(Pixels())
    numbers = adapted.probe().batch(np.arange(3)).inputs["numbers"]
    assert len({row.numpy().tobytes() for row in numbers}) == 3
