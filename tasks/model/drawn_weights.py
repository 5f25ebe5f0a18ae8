"""Weights that a checkpoint lacks, drawn from a seed: the same ones at every site and at every load."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_PURPOSE = 1  # apart from other draws of the same seed, such as the adapter's
_UNIFORMS = 12  # their sum has the variance 1


class DrawnWeights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within this block what torch would draw into tensors comes from ``seed``, in the order of the draws.

    A model initializes in an order of its own, always the same. torch's generator is one for the whole
    process, and what it makes of a seed differs from processor to processor in the last bits; here only
    sums, products and a root are rounded, which IEEE 754 defines. A normal number is the sum of twelve
    uniform ones, less six.

    A matrix of normal numbers has the variance 1 / inputs, whatever the model's own way: such a layer stays
    as it is drawn, and passes on what it is given at its size. With the usual standard deviation of 0.02 a
    head of two layers would hear little of the model under it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._random = np.random.Generator(np.random.PCG64([seed, _PURPOSE]))
        self._seed = seed
        # Held, so that no other tensor takes the place in memory by which one is known.
        self._drawn: list[torch.Tensor] = []

    @contextmanager
    def all_kinds(self) -> Iterator[DrawnWeights]:
        """The block, with torch's own generator seeded too, for draws of a rarer kind."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            with self:
                yield self

    def names(self, model: nn.Module) -> tuple[str, ...]:
        """Those of a model's tensors that were drawn, in its own order."""
        places = {tensor.untyped_storage().data_ptr() for tensor in self._drawn}
        return tuple(
            name
            for name, tensor in model.state_dict(keep_vars=True).items()
            if tensor.numel() and tensor.untyped_storage().data_ptr() in places
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        normal = func is torch.ops.aten.normal_.default
        if not (normal or func is torch.ops.aten.uniform_.default) or args[0].device.type == "meta":
            return func(*args, **kwargs)
        tensor, names = args[0], ("mean", "std") if normal else ("from", "to")
        given = dict(zip(names, args[1:], strict=False)) | kwargs
        first, second = given.get(names[0], 0.0), given.get(names[1], 1.0)
        if normal:
            if tensor.dim() == 2:
                second = math.sqrt(1 / tensor.shape[1])
            drawn = np.full(tensor.numel(), -_UNIFORMS / 2)
            for _ in range(_UNIFORMS):
                drawn += self._random.random(tensor.numel())
            drawn = first + second * drawn
        else:
            drawn = first + (second - first) * self._random.random(tensor.numel())
        tensor.copy_(torch.from_numpy(drawn).view(tensor.shape))
        self._drawn.append(tensor)
        return tensor
