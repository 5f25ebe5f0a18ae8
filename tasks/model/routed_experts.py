"""LoRA on routed experts: each expert of a layer has a pair of its own, whose gradients are an example's.

transformers keeps the experts of a layer in two tensors, and sends them the tokens of a whole batch, one
after another. So no layer is called with one example's tokens, and hooks find nothing. Here tokens are
sorted into segments: those of one expert or, where examples are wanted apart, those of one example at one
expert. For token x of a segment p at expert e, with g the gradient of what the expert gives,

    h = A_p · x        y = W_e · x + s · B_p · h
    δ = s · B_pᵀ · g   G^A_p = Σ δ · xᵀ   G^B_p = s · Σ g · hᵀ

Where each segment has its own A_p and B_p, all equal to the expert's, autograd's gradients of them are
those of single examples. A segment that no token is in does not exist: it takes no time and no memory.

The router is frozen, as all of the base model is, and no expert has a capacity: which experts a token
reaches, and what comes back of them, follows from its own example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from privacy.errors import PrivacyUnitError
from protocol.job.layout import FUSED

# From an expert's own A or B and a row of the batch to what that row is computed with.
WeightOf = Callable[[nn.Parameter, int], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """The tokens from ``begin`` to ``end``, as they are sorted: of ``row`` at ``expert``."""

    expert: int
    row: int
    begin: int
    end: int

    @property
    def place(self) -> slice:
        return slice(self.begin, self.end)


class _Factor(nn.Module):
    def __init__(self, rows: int, columns: int, *, like: torch.Tensor) -> None:
        super().__init__()
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        self.weight = nn.Parameter(torch.zeros(rows, columns, device=like.device, dtype=dtype))


class ExpertPair(nn.Module):
    """One expert's A [rank, in] and B [out, rank]; rank and scale are where PEFT's layers have them."""

    def __init__(self, weight: torch.Tensor, *, rank: int, scale: float, adapter: str) -> None:
        super().__init__()
        outputs, inputs = weight.shape[1:]
        self.lora_A = nn.ModuleDict({adapter: _Factor(rank, inputs, like=weight)})
        self.lora_B = nn.ModuleDict({adapter: _Factor(outputs, rank, like=weight)})
        self.r, self.scaling = {adapter: rank}, {adapter: scale}


class RoutedExperts(nn.Module):
    """Experts of transformers', ``base_layer``, with LoRA's pairs on one or both of their weights.

    ``pairs`` has the rank and the scale of the pairs on each weight that has some, by its name.
    """

    def __init__(
        self, base_layer: Any, pairs: Mapping[str, tuple[int, float]], *, adapter: str = "default"
    ) -> None:
        super().__init__()
        self.base_layer, self._adapter = base_layer, adapter
        for name, (rank, scale) in pairs.items():
            weight = getattr(base_layer, name)
            found = [ExpertPair(weight, rank=rank, scale=scale, adapter=adapter) for _ in weight]
            setattr(self, name, nn.ModuleList(found))
        self._disable_adapters = False  # as PEFT's layers have it: they compute as the base does then
        self._rows: int | None = None
        self._weight_of: WeightOf = _own

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """As the experts' own: float[tokens, outer] and each token's experts and weights, [tokens, k]."""
        count = top_k_index.shape[-1]
        order, segments = self._sorted(top_k_index)
        values = hidden_states[order // count].to(self.base_layer.gate_up_proj.dtype)
        inner = self.base_layer._apply_gate(self._linear(FUSED[0], values, segments))
        values = self._linear(FUSED[1], inner, segments) * top_k_weights.reshape(-1)[order, None]
        # Back in the order of the tokens: sums of a token's experts are then in its own order.
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        summed = values[back].view(len(hidden_states), count, -1).sum(dim=1)
        return summed.to(hidden_states.dtype)

    @contextmanager
    def rows_apart(self, rows: int, weight_of: WeightOf) -> Iterator[None]:
        """Within this block each row of a batch has weights of its own, which ``weight_of`` gives.

        It is called once for each A and B of an expert and row that has a token there.
        """
        self._rows, self._weight_of = rows, weight_of
        try:
            yield
        finally:
            self._rows, self._weight_of = None, _own

    def unload_and_optionally_merge_module(
        self,
        merge: bool,
        safe_merge: bool,  # noqa: ARG002 - what PEFT calls it with
        adapter_names: list[str] | None,  # noqa: ARG002
    ) -> nn.Module:
        """The base's experts, with s · B · A added to their weights if ``merge``: PEFT calls it."""
        if merge:
            with torch.no_grad():
                for name in FUSED:
                    weight = getattr(self.base_layer, name)
                    for expert, pair in enumerate(getattr(self, name, ())):
                        first, last = self._halves(pair)
                        weight[expert] += (pair.scaling[self._adapter] * (last @ first)).to(weight.dtype)
        found: nn.Module = self.base_layer
        return found

    def _linear(self, name: str, values: torch.Tensor, segments: Sequence[_Segment]) -> torch.Tensor:
        pairs: Any = getattr(self, name, None)
        weight = getattr(self.base_layer, name)
        if pairs is None or self._disable_adapters:
            return _apply(values, weight, 0.0, segments)
        halves = [
            [self._weight_of(half, segment.row) for half in self._halves(pairs[segment.expert])]
            for segment in segments
        ]
        firsts, lasts = [pair[0] for pair in halves], [pair[1] for pair in halves]
        return _apply(values, weight, pairs[0].scaling[self._adapter], segments, *firsts, *lasts)

    def _halves(self, pair: Any) -> tuple[nn.Parameter, nn.Parameter]:
        return pair.lora_A[self._adapter].weight, pair.lora_B[self._adapter].weight

    def _sorted(self, top_k_index: torch.Tensor) -> tuple[torch.Tensor, list[_Segment]]:
        """The places of tokens, [tokens · k], in order of segments, and the segments that have any."""
        key, rows = top_k_index.reshape(-1), self._rows or 1
        if self._rows is not None:
            if len(top_k_index) % rows:
                raise PrivacyUnitError(
                    f"routed experts are given {len(top_k_index)} tokens in a batch of {rows} examples: "
                    "which token is whose cannot be told. Choose other adapter.target_modules"
                )
            row = torch.arange(len(key), device=key.device) // (len(key) // rows)
            key = key * rows + row
        order = key.argsort(stable=True)
        keys, counts = torch.unique_consecutive(key[order], return_counts=True)
        segments, begin = list[_Segment](), 0
        for number, count in zip(keys.tolist(), counts.tolist(), strict=True):
            expert, row_number = divmod(number, rows)
            segments.append(_Segment(expert=expert, row=row_number, begin=begin, end=begin + count))
            begin += count
        return order, segments


def _own(half: nn.Parameter, row: int) -> torch.Tensor:  # noqa: ARG001 - all rows have it
    return half


def _apply(values: torch.Tensor, *given: Any) -> torch.Tensor:
    found: torch.Tensor = _SegmentedLinear.apply(values, *given)  # type: ignore[no-untyped-call]  # torch's
    return found


class _SegmentedLinear(torch.autograd.Function):
    """W_e · x + s · B_p · A_p · x for the tokens of each segment: float[tokens, in] to float[tokens, out].

    ``halves`` are A of every segment and then B of every segment, or nothing where there are no pairs. One
    function, as autograd's own record of so many small products would take longer than they do.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        weight: torch.Tensor,
        scale: float,
        segments: Sequence[_Segment],
        *halves: torch.Tensor,
    ) -> torch.Tensor:
        count = len(halves) // 2
        given = values.new_empty(len(values), weight.shape[1])
        hidden = values.new_empty(len(values), len(halves[0]) if halves else 0)
        for number, segment in enumerate(segments):
            place = segment.place
            torch.mm(values[place], weight[segment.expert].T, out=given[place])
            if halves:
                first, last = halves[number].to(values.dtype), halves[count + number].to(values.dtype)
                torch.mm(values[place], first.T, out=hidden[place])
                given[place].addmm_(hidden[place], last.T, alpha=scale)
        ctx.scale, ctx.segments = scale, segments
        ctx.save_for_backward(values, weight, hidden, *halves)
        return given

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight, hidden, *halves = ctx.saved_tensors
        below, count = ctx.needs_input_grad[0], len(halves) // 2
        wanted = ctx.needs_input_grad[4:]
        into = torch.empty_like(values) if below else None
        found: list[torch.Tensor | None] = [None] * len(halves)
        for number, segment in enumerate(ctx.segments):
            place = segment.place
            if into is not None:
                torch.mm(gradient[place], weight[segment.expert], out=into[place])
            if halves:
                first, last = halves[number], halves[count + number]
                delta = (gradient[place] @ last.to(gradient.dtype)).mul_(ctx.scale)
                if into is not None:
                    into[place].addmm_(delta, first.to(delta.dtype))
                if wanted[number]:
                    found[number] = (delta.T @ values[place]).to(first.dtype)
                if wanted[count + number]:
                    product = (gradient[place].T @ hidden[place]).mul_(ctx.scale)
                    found[count + number] = product.to(last.dtype)
        return into, None, None, None, *found
