"""EfficientNet-Lite0 in transformers' class computes what the weights' own network computes."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

EXAMPLE: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[2] / "examples" / "efficientnet_lite0.py")
)
# Repeats, kernel, stride, expansion, inputs and outputs of each stage: Tan and Le 2019 (arXiv:1905.11946),
# table 1, without squeeze and excitation.
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
Weights = dict[str, torch.Tensor]


def blocks() -> list[tuple[int, int, int, int, int]]:
    """Kernel, stride, expansion, inputs and outputs of each block."""
    return [
        (kernel, stride if first else 1, expansion, inputs if first else outputs, outputs)
        for repeats, kernel, stride, expansion, inputs, outputs in STAGES
        for first in [True] + [False] * (repeats - 1)
    ]


def drawn_weights() -> Weights:
    """Weights by the package's names, with which signals keep their size."""
    random, found = torch.Generator().manual_seed(0), Weights()

    def convolution(name: str, *shape: int) -> None:
        inputs = shape[1] * shape[2] * shape[3]
        found[f"{name}.weight"] = torch.randn(shape, generator=random) * (2 / inputs) ** 0.5

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"] = 0.5 + torch.rand(width, generator=random)
        found[f"{name}.bias"] = torch.randn(width, generator=random)
        found[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=random)
        found[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=random)
        found[f"{name}.num_batches_tracked"] = torch.tensor(1)

    convolution("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for number, (kernel, _, expansion, inputs, outputs) in enumerate(blocks()):
        wide, name = inputs * expansion, f"_blocks.{number}"
        if expansion > 1:
            convolution(f"{name}._expand_conv", wide, inputs, 1, 1)
            norm(f"{name}._bn0", wide)
        convolution(f"{name}._depthwise_conv", wide, 1, kernel, kernel)
        norm(f"{name}._bn1", wide)
        convolution(f"{name}._project_conv", outputs, wide, 1, 1)
        norm(f"{name}._bn2", outputs)
    convolution("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    found["_fc.weight"] = torch.randn(1000, 1280, generator=random) / 36
    found["_fc.bias"] = torch.randn(1000, generator=random)
    return found


def reference(weights: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Logits, with zeros at the edges as TensorFlow's "SAME" has them: the odd one behind."""

    def convolved(x: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        lacking = max((-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
        before, behind = lacking // 2, lacking - lacking // 2
        padded = functional.pad(x, (before, behind, before, behind))
        return functional.conv2d(padded, weight, stride=stride, groups=groups)

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    x = functional.relu6(normed(convolved(images, "_conv_stem", stride=2), "_bn0"))
    for number, (_, stride, expansion, inputs, outputs) in enumerate(blocks()):
        name, before = f"_blocks.{number}", x
        if expansion > 1:
            x = functional.relu6(normed(convolved(x, f"{name}._expand_conv"), f"{name}._bn0"))
        x = convolved(x, f"{name}._depthwise_conv", stride=stride, groups=x.shape[1])
        x = functional.relu6(normed(x, f"{name}._bn1"))
        x = normed(convolved(x, f"{name}._project_conv"), f"{name}._bn2")
        x = x + before if stride == 1 and inputs == outputs else x
    x = functional.relu6(normed(convolved(x, "_conv_head"), "_bn1")).mean((2, 3))
    return x @ weights["_fc.weight"].T + weights["_fc.bias"]


@pytest.mark.parametrize("size", [64, 96])
def test_it_computes_the_same(size: int) -> None:
    weights, images = (
        drawn_weights(),
        torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)),
    )
    with torch.no_grad():
        found = EXAMPLE["convert"](weights)(images).logits
        expected = reference(weights, images)
    assert expected.std() > 0.1
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_another_models_weights_are_refused() -> None:
    weights = drawn_weights()
    with pytest.raises(KeyError, match="_se_reduce"):
        EXAMPLE["convert"](weights | {"_se_reduce.weight": torch.zeros(1)})
    weights.pop("_bn1.bias")
    with pytest.raises(RuntimeError, match=r"top_bn\.bias"):
        EXAMPLE["convert"](weights)
