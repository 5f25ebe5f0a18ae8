"""LoRA on convolutions, in a network like ConvNeXt: rules and exports take its halves as matrices."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn

from client.training.gradient_check import choose_gradients
from client.training.gradients import HookedGradients, losses
from client.training.unit_check import check_privacy_unit
from privacy.errors import ModelError
from protocol.job.job_file import parse_job
from runs.peft_form import peft_config, save_tensors
from strategies.fedsvd import refactor
from tasks import registry
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel
from tasks.model.device import Device
from tests.client.training.test_per_example_gradients import RELATIVE, furthest
from tests.models import random_adapter
from tests.tasks.number_table import TASK

SIDE = 4


class NextLike(nn.Module):
    """Patches, a filter for each channel with layers between channels, and another convolution."""

    def __init__(self, *, dims: int = 2, step: dict[str, Any] | None = None) -> None:
        super().__init__()
        conv: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.shape = {1: (16,), 2: (4, 4), 3: (4, 2, 2)}[dims]
        self.patches = conv(1, 4, 2, stride=2)
        self.depthwise = conv(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4)
        self.wide, self.narrow = nn.Linear(4, 8), nn.Linear(8, 4)
        self.step = conv(4, 6, 3, padding=1, **(step or {}))
        self.classifier = nn.Linear(6, 2)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        values = self.patches(numbers.view(len(numbers), 1, *self.shape))
        inner = self.norm(self.depthwise(values).movedim(1, -1))
        values = values + self.narrow(nn.functional.gelu(self.wide(inner))).movedim(-1, 1)
        logits: torch.Tensor = self.classifier(self.step(values).flatten(2).mean(-1))
        return logits


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of tests alone is found by its name."""
    monkeypatch.setattr(registry, "find_task", lambda _name: TASK)


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def adapt(model: nn.Module, *targets: str, strategy: str = "lora", **adapter: Any) -> AdaptedModel:
    columns = [f"pixel{number}" for number in range(SIDE * SIDE)]
    job = parse_job(
        {
            "task": "number-table",
            "model": {"source": "a tiny random model"},
            "adapter": {"rank": 2, "target_modules": list(targets)} | adapter,
            "data": {"source": "none", "columns": columns, "label": "kind", "labels": ["low", "high"]},
            "strategy": {"name": strategy},
        }
    )
    base = BaseModel(
        model=model.requires_grad_(False),
        digest="0" * 64,
        reader=SIDE * SIDE,
        head=("classifier",),
        peft_type=None,
        limit=None,
    )
    return AdaptedModel(base, job=job, device=Device(torch=torch.device("cpu"), bfloat16=False))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_examples_gradient_is_its_own(dims: int) -> None:
    model = NextLike(dims=dims)
    method = choose_gradients(adapt(model, "patches", "step", "wide", bias="lora_only"))
    adapted = method.adapted
    assert isinstance(method, HookedGradients)
    check_privacy_unit(method, adapted.probe())
    torch.manual_seed(0)
    reference = adapt(NextLike(dims=dims), "patches", "step", "wide", bias="lora_only")
    for one in (adapted, reference):
        one.load(random_adapter(one))
    examples = adapted.probe()
    found = method.backward(examples.batch(np.arange(len(examples))), losses(adapted))
    assert furthest(found, reference, examples) < RELATIVE


@pytest.mark.parametrize("init", ["orthonormal", "pissa", "olora"])
def test_what_is_saved_loads_with_stock_peft_and_a_turned_basis_computes_the_same(
    init: str, tmp_path: Path
) -> None:
    base = NextLike()
    numbers = torch.randn(5, SIDE * SIDE)
    before = base(numbers)
    adapted = adapt(copy.deepcopy(base), "patches", "step", "wide", init=init, strategy="fedsvd")
    start = adapted.initial_adapter(0)
    adapted.load(start)
    adapted.peft.eval()
    head = adapted.base.model.classifier.modules_to_save["default"]
    torch.testing.assert_close(adapted.peft(numbers), before, atol=1e-6, rtol=1e-5)
    assert torch.equal(head.weight, base.classifier.weight)
    rows = adapted.layout.split(start)["base_model.model.step.lora_A.weight"]
    if init == "orthonormal":
        flat = rows.reshape(len(rows), -1)
        np.testing.assert_allclose(flat @ flat.T, np.eye(2), atol=1e-6)

    update = 0.3 * np.random.default_rng(0).standard_normal(adapted.layout.update_size)
    trained = adapted.layout.apply(start, update.astype(np.float32))
    adapted.load(trained)
    expected = adapted.peft(numbers)
    assert (expected - before).abs().max() > 1e-2
    turned = refactor(trained, adapted.layout)
    assert not np.array_equal(turned, trained)
    adapted.load(turned)
    torch.testing.assert_close(adapted.peft(numbers), expected, atol=1e-5, rtol=1e-5)

    config = peft_config(adapted.peft.peft_config["default"].to_dict(), adapted.spec.adapter)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    begun = None if init == "orthonormal" else adapted.layout.split(start)
    save_tensors(tmp_path, adapted.layout.split(turned), begun=begun)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    # Sums of at most 36 products of float32 numbers, in another order, through four layers.
    torch.testing.assert_close(loaded(numbers), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(adapted.peft.merge_and_unload()(numbers), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "step",
    [{"dilation": 2}, {"groups": 2}, {"padding_mode": "reflect"}],
    ids=["dilation", "groups", "padding"],
)
def test_convolutions_that_peft_would_get_wrong_are_refused(step: dict[str, Any]) -> None:
    with pytest.raises(
        ModelError, match=r"convolutions without groups or dilation.*such as step, B · A cannot"
    ):
        adapt(NextLike(step=step), "step")


def test_a_convolution_carries_no_core() -> None:
    with pytest.raises(ModelError, match="step is no linear layer"):
        adapt(NextLike(), "wide", "step", strategy="fedsb")
    adapt(NextLike(), "wide", "narrow", strategy="fedsb")


def test_all_linear_are_linear() -> None:
    adapted = adapt(NextLike(), "all-linear")
    assert {name.split(".")[2] for name in adapted.trained} == {"wide", "narrow", "classifier"}
