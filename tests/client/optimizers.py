"""Optimizers with made-up gradients, and what they release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.optimizer import PrivateOptimizer
from privacy.accounting.sampled_plan import SampledPlan
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_source

EXPECTED_BATCH = 8
# Against float32's rounding in a norm of a few thousand terms, sqrt(n) · 2^-24 < 1e-5.
ROUNDING = 1e-5

Shapes = Sequence[tuple[int, ...]]
SHAPES = ((4, 3), (5,))


def make_optimizer(
    *,
    shapes: Shapes = SHAPES,
    mechanism: str = "gaussian",
    multiplier: float = 1.0,
    clipping_norm: float = 1.0,
    source: Any = None,
) -> PrivateOptimizer:
    """Plain SGD at rate 1, so that a step subtracts exactly what was released."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    plan = SampledPlan(
        mechanism=Mechanism(name=mechanism, multiplier=multiplier),
        clipping_norm=clipping_norm,
        sampling_rate=0.1,
        steps=1,
        delta=1e-5,
    )
    optimizer = PrivateOptimizer(
        torch.optim.SGD(parameters, lr=1.0), plan=plan, expected_batch_size=EXPECTED_BATCH
    )
    optimizer.source = source or keyed_source(0, "optimizer")
    return optimizer


def without_noise(**kwargs: Any) -> PrivateOptimizer:
    """Clips, and adds noise too small to see: what is left is the sum."""
    return make_optimizer(multiplier=1e-30, **kwargs)


def random_gradients(
    count: int, *, shapes: Shapes = SHAPES, size: float = 10.0, seed: int = 0
) -> list[torch.Tensor]:
    """Gradients [count, *shape] a tensor, most of them far over the bound."""
    generator = torch.Generator().manual_seed(seed)
    return [size * torch.randn((count, *shape), generator=generator) for shape in shapes]


def step(optimizer: PrivateOptimizer, *batches: list[torch.Tensor]) -> None:
    """One step from per-example gradients in one or several physical batches."""
    for number, batch in enumerate(batches, start=1):
        for parameter, gradients in zip(optimizer.params, batch, strict=True):
            parameter.grad_sample = gradients.clone()
        optimizer.signal_skip_step(do_skip=number < len(batches))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def released(optimizer: PrivateOptimizer) -> NDArray[np.float64]:
    """The noisy sum that the first step released, over all tensors."""
    moved = torch.cat([-p.detach().flatten() for p in optimizer.params])
    return EXPECTED_BATCH * moved.double().numpy()


def rows(gradients: list[torch.Tensor], *indices: int) -> list[torch.Tensor]:
    return [gradient[list(indices)] for gradient in gradients]


def flat(gradients: list[torch.Tensor]) -> NDArray[np.float64]:
    return torch.cat([g.flatten(1) for g in gradients], dim=1).double().numpy()


def clipped(gradients: list[torch.Tensor], *, norm: int, bound: float) -> NDArray[np.float64]:
    """The reference: each row scaled down to the bound, in float64."""
    whole = flat(gradients)
    norms = np.linalg.norm(whole, norm, axis=1, keepdims=True)
    return whole * np.minimum(1.0, bound / norms)
