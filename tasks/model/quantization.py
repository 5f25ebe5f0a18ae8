"""A base model in four or eight bits: the weights of its linear layers are packed, and stay so.

They are packed on the processor, whatever device trains, and each block or row for itself: so machines
agree on each bit, and on the digest. Of NF4 the second quantization is left out, that of scales, which
subtracts a mean that rounding may move. A pass unpacks a layer while it computes it, forwards and again
backwards.

Sources: Dettmers et al. 2023, QLoRA (arXiv:2305.14314), section 3, for NF4; Dettmers et al. 2022, LLM.int8
(arXiv:2208.07339), section 2, for one scale a row.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from privacy.errors import ModelError
from protocol.job.job import Job
from tasks.model.model_layers import linear_layers

_BLOCK = 64  # weights that share a scale in NF4, as in the paper


def quantize(job: Job, model: nn.Module, *, keep: Collection[str]) -> None:
    """Pack a model's linear layers as the job asks, but those of ``keep``; nothing if it asks for none.

    Raises ModelError where the package is missing, no layer is of PyTorch's kind, or the job's adapter or
    strategy takes the weights for numbers.
    """
    kind = job.model.quantization
    if kind is None:
        return
    key = f'model.quantization="{kind}"'
    _check_goes_with(job, key)
    try:
        packing = importlib.import_module("bitsandbytes.functional")
    except ImportError:
        raise ModelError(f"{key} needs bitsandbytes: pip install 'confide[quantized]'") from None
    layers = [
        (name, layer)
        for name, layer in linear_layers(model)
        if type(layer).forward is nn.Linear.forward and name.split(".")[0] not in keep and name not in keep
    ]
    if not layers:
        raise ModelError(f"{key}: the model has no linear layers of PyTorch's to pack: leave the key out")
    for name, layer in layers:
        model.set_submodule(name, PackedLinear(layer, kind, packing))


class PackedLinear(nn.Linear):
    """A linear layer whose weight takes four bits a number, or eight; its bias stays as it is.

    ``weight`` is uint8[out · in / 2, 1] of NF4, with ``scales``, float32, one for 64 numbers; or
    int8[out, in], with one for each row.
    """

    scales: torch.Tensor

    def __init__(self, layer: Any, kind: str, packing: Any) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._kind, self._packing, whole = kind, packing, layer.weight.detach()
        if kind == "nf4":
            weight, state = packing.quantize_4bit(whole, blocksize=_BLOCK, quant_type="nf4")
            scales = state.absmax
        else:
            weight, scales, _ = packing.int8_vectorwise_quant(whole)
            weight[scales == 0] = 0  # of a row of zeros, which is divided by its largest
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), layer.bias
        self.register_buffer("scales", scales)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As a linear layer's, with the weight unpacked for as long as it takes."""
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(torch.get_autocast_dtype(input.device.type))
        found: torch.Tensor = _Unpacked.apply(  # type: ignore[no-untyped-call]  # torch's
            input, self.weight, self.scales, self
        )
        return found if self.bias is None else found + self.bias.to(found.dtype)

    def unpacked(self, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """What a weight with its scales stands for, packed as this layer's are: float32[out, in]."""
        found: torch.Tensor
        if self._kind == "nf4":
            state = self._packing.QuantState(
                absmax=scales,
                shape=torch.Size((self.out_features, self.in_features)),
                blocksize=_BLOCK,
                quant_type="nf4",
                dtype=torch.float32,
            )
            found = self._packing.dequantize_4bit(weight, state)
        else:
            found = self._packing.int8_vectorwise_dequant(weight, scales)
        return found


class _Unpacked(torch.autograd.Function):
    """A product with a packed weight, of which no unpacked one is kept from forwards to backwards.

    The packed one is kept as autograd keeps tensors, so that a pass that is repeated has its own.
    """

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, layer: PackedLinear
    ) -> torch.Tensor:
        ctx.save_for_backward(weight, scales)
        ctx.layer = layer
        return nn.functional.linear(values, layer.unpacked(weight, scales).to(values.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        whole = ctx.layer.unpacked(*ctx.saved_tensors)
        return gradient @ whole.to(gradient.dtype), None, None, None


def _check_goes_with(job: Job, key: str) -> None:
    if job.adapter.changes_base:
        raise ModelError(
            f'{key}: expected adapter.init="orthonormal", got "{job.adapter.init}", which takes a part out '
            "of weights that are packed here"
        )
    if job.strategy.residual or job.strategy.cored:
        raise ModelError(
            f'{key}: expected another strategy.name than "{job.strategy.name}", which reads or moves the '
            'weights: use "fedsvd", "ffa" or "fedit"'
        )
