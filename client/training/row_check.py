"""Whether an example's gradient stays the same, bit for bit, wherever it stands in a batch of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from client.training.gradients import Found, Loss, PerExampleGradients, losses
from client.training.sparse_rows import numbers
from client.training.stacked_gradients import StackedGradients
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Batch, Examples
from tasks.data.shapes import Shapes
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations


@timed(Part.CHECKS)
def heights_apart(
    method: PerExampleGradients, *, size: int, heights: tuple[int, ...], activations: Activations | None
) -> tuple[int, ...]:
    """Those of ``heights``, in rising order, among which no bit of a row's gradients differs.

    Gradients of made-up examples are compared in other rows of the tallest batch, next to other examples
    and to blank rows: if they differ, there is no such height, nor if what is multiplied has other shapes
    with other examples, as what a router sends to an expert has: then rounding depends on the others,
    whether that shows here or not. Lower heights are left out if gradients differ in a batch of one, in
    other rows and next to others, or next to blank rows alone. As in training: in its precision, with kept
    activations if there are any, but without dropout. What is found says nothing of anyone's data. The
    adapter that was loaded is lost.
    """
    with _random_adapter(method.adapted):
        return tuple(_same(method, size, heights, activations))[::-1]


class UnequalWeights:
    """Gradients as of several sites' examples: each row has weights of its own, which its example says.

    Rows that share one tensor of weights are laid out otherwise in memory, and may be multiplied by other
    kernels.
    """

    batched = True

    def __init__(self, adapted: AdaptedModel) -> None:
        self.adapted = adapted
        self._stacked = StackedGradients(adapted)

    def backward(self, batch: Batch, loss: Loss) -> Found:
        # A blank row has another's weights, as in training.
        blank = np.full(len(batch) - len(batch.indices), batch.indices[0])
        factors = 1.0 + np.append(batch.indices, blank) / 16
        weights = {
            name: torch.stack([p.detach() * float(factor) for factor in factors])
            for name, p in self.adapted.trained.items()
        }
        return self._stacked.backward_with(weights, batch, loss)


def _same(
    method: PerExampleGradients, size: int, heights: tuple[int, ...], activations: Activations | None
) -> Iterator[int]:
    rows = heights[-1] - 1  # the last row is always blank
    examples = _made_up(method.adapted, size=size, count=2 * rows)
    first, others = np.arange(rows), np.arange(rows, 2 * rows)

    def found(order: NDArray[np.int64], height: int) -> torch.Tensor:
        shapes = Shapes.of_one_height(height, sizes=(size,))
        return _gradients(method, examples, order, shapes, activations)

    with _Products() as whole:
        expected = found(first, heights[-1])
    with _Products() as nearly_empty:
        found(others[:1], heights[-1])

    def as_expected(order: NDArray[np.int64], height: int) -> bool:
        known = order < rows
        gradients = found(order, height)[torch.from_numpy(known)]
        return torch.equal(gradients, expected[torch.from_numpy(order[known])])

    half, rest = first[::2], first[1::2]
    orders = (
        first[-1:],
        first[::-1],
        # The others are all full: nothing but the blank row is padded.
        np.concatenate([others[: rows - 1], first[:1]]),
        np.concatenate([others[: len(rest)], half]),
        # Blank rows after these.
        rest[::-1],
    )
    if whole.noted != nearly_empty.noted or not torch.isfinite(expected).all():
        return
    if not all(as_expected(order, rows + 1) for order in orders):
        return
    yield rows + 1
    for height in heights[-2::-1]:
        own = height // 2
        full = np.concatenate([others[: height - 1 - own], first[:own][::-1]])
        if as_expected(full, height) and as_expected(first[-1:], height):
            yield height


def _made_up(adapted: AdaptedModel, *, size: int, count: int) -> Examples:
    """So many examples: of all sizes up to the largest, which the second half have."""
    random = np.random.Generator(np.random.PCG64(0))
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
    """The gradients of the examples in this order in one batch, row by row, as they are clipped."""
    (batch,) = shapes.batches(examples, order)
    kept = None
    if activations is not None:
        kept = activations.of(examples)
        kept.fill(order, shapes)
    return numbers(method.backward(batch, losses(method.adapted, kept)))


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Notes the shapes of all that is multiplied as matrices within the block, in order.

    A product may be of several groups, one an expert: where they end, in whole numbers, is noted too.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.noted: list[list[list[int]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if any(word in func.name() for word in ("mm", "linear", "conv", "attention")):
            tensors = [each for each in (*args, *named.values()) if isinstance(each, torch.Tensor)]
            ends = [each.tolist() for each in tensors if each.dtype in (torch.int32, torch.int64)]
            self.noted.append([list(each.shape) for each in tensors] + ends)
        return func(*args, **named)


@contextmanager
def _random_adapter(adapted: AdaptedModel) -> Iterator[None]:
    """Within this block no gradient is zero by construction, and dropout is off."""
    adapted.load(adapted.some_adapter(0))
    adapted.peft.train()
    for module in adapted.peft.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    try:
        yield
    finally:
        adapted.peft.train()
