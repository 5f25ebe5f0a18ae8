"""Whether an example's gradient stays the same, bit for bit, wherever it stands in a batch of one shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.gradients import PerExampleGradients, losses
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Examples
from tasks.data.shapes import Shapes
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations


@timed(Part.CHECKS)
def rows_are_apart(
    method: PerExampleGradients, *, size: int, rows: int, activations: Activations | None
) -> bool:
    """Compare gradients of made-up examples in other rows, next to other examples and to blank rows.

    As in training: in its precision, with kept activations if there are any, but without dropout. What
    is found says nothing of anyone's data. The adapter that was loaded is lost.
    """
    with _random_adapter(method.adapted):
        return _same(method, Shapes(rows=rows, sizes=(size,)), activations)


def _same(method: PerExampleGradients, shapes: Shapes, activations: Activations | None) -> bool:
    rows = shapes.rows - 1  # the last row is always blank
    examples = _made_up(method.adapted, shapes)
    first, others = np.arange(rows), np.arange(rows, 2 * rows)
    expected = _gradients(method, examples, first, shapes, activations)
    if not torch.isfinite(expected).all():
        return False
    half, rest = first[::2], first[1::2]
    orders = (
        first[::-1],
        # The others are all full: nothing but the blank row is padded.
        np.concatenate([others[: rows - 1], first[:1]]),
        np.concatenate([others[: len(rest)], half]),
        # Blank rows after these.
        rest[::-1],
    )
    for order in orders:
        found = _gradients(method, examples, order, shapes, activations)
        known = order < rows
        if not torch.equal(found[torch.from_numpy(known)], expected[torch.from_numpy(order[known])]):
            return False
    return True


def _made_up(adapted: AdaptedModel, shapes: Shapes) -> Examples:
    """Twice as many examples as rows: of all sizes up to the largest, which the second half have."""
    random = np.random.Generator(np.random.PCG64(0))
    size, count = shapes.sizes[0], 2 * (shapes.rows - 1)
    sizes = np.full(count, size, np.int64)
    varied = sizes[: count // 2]
    varied[:] = random.integers(min(adapted.sizes.least, size), size + 1, len(varied))
    sizes[0] = size
    return adapted.task.made_up(adapted, random, sizes)


def _gradients(
    method: PerExampleGradients,
    examples: Examples,
    order: NDArray[np.int64],
    shapes: Shapes,
    activations: Activations | None,
) -> torch.Tensor:
    """The gradients of the examples in this order in one batch, row by row."""
    (batch,) = shapes.batches(examples, order)
    kept = None
    if activations is not None:
        kept = activations.of(examples)
        kept.fill(order, shapes)
    found = method.backward(batch, losses(method.adapted, kept))
    return torch.cat([gradients.flatten(1) for gradients in found.values()], dim=1)


@contextmanager
def _random_adapter(adapted: AdaptedModel) -> Iterator[None]:
    """Within this block no gradient is zero by construction, and dropout is off."""
    random = np.random.Generator(np.random.PCG64(0)).standard_normal(adapted.layout.adapter_size)
    adapted.load((0.05 * random).astype(np.float32))
    adapted.peft.train()
    for module in adapted.peft.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    try:
        yield
    finally:
        adapted.peft.train()
