"""Clipping of gradients that are held as factors: none of them is computed, and the sum is exact.

For an example with inputs a_t and gradients of outputs g_t at its places, the gradient of a linear layer's
weight is G = Σ_t g_t a_tᵀ, and

    ‖G‖² = Σ_ts (a_t · a_s)(g_t · g_s),      Σ_i c_i G_i = Σ_it (c_i g_it) a_itᵀ,

so that norms take the two small matrices of products, and the clipped sum over examples is one product of
matrices. In floats that sum would round differently with other examples in it. Here it is of whole numbers:
each example's inputs are rounded to 24 bits of their largest, and its c g to the unit in which the product
is 2^-20 steps of the grid. So what a product adds to the sum is a function of the example alone, to the
last bit, and the sum is exact.

Sources: Goodfellow 2015 (arXiv:1510.01799) and Li et al. 2021 (arXiv:2110.05679), section 4, for norms; Bu
et al. 2022 (arXiv:2210.00038) for the sum from what one backward pass leaves. docs/mechanisms.md has the
proof that rounding stays within the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import (
    SLACK,
    STEPS,
    ClippedSum,
    check_bound,
    clip_gradients,
    rows_at_once,
    tree_sum,
)
from privacy.mechanisms.exact_products import FINER, INPUT_BITS, exact_product
from privacy.mechanisms.factored_gradients import Factors

if TYPE_CHECKING:
    from torch import Tensor

# Rounding a whole sum down may move a coordinate by a step more: √(2^38) steps for so many numbers, which
# are 2^-21 of the bound and half of what SLACK leaves.
_NUMBERS_MAX = 2**38
# Σ t² · in · out over tensors: rounding c g takes √ of it · 2^-37 of the bound at most, here a quarter.
_SPREAD_MAX = 2.0**70
# On a coarser grid than this, a little under that of a sum with a count, these steps would be too long.
_STEPS_MIN = 0.99 * STEPS
# A double is right to half of this, and a sum of n products to n times as much of the sum of their sizes.
_ROUNDING = 2.0**-52


def clip_found(
    gradients: Sequence[Tensor | Factors], *, bound: float, norm: int, steps: float = STEPS
) -> ClippedSum:
    """As ``clip_gradients``, of gradients of which some are held as factors.

    Guarantee: as there, an example moves the sum by at most ``steps`` of the grid in the L2 ``norm``. What
    it adds depends on it alone, to the last bit, and sums of physical batches are joined exactly; what is
    beyond whole steps is left out of the whole sum, once. Factors are multiplied first where that does not
    do: bounded in L1, on a coarser grid, of tensors too large, or with sparse ones beside them. An
    example whose factors are not finite counts as zero. Raises what ``clip_gradients`` does.
    """
    factored = {number: g for number, g in enumerate(gradients) if isinstance(g, Factors)}
    plain = {number: g for number, g in enumerate(gradients) if not isinstance(g, Factors)}
    exact = norm == 2 and steps >= _STEPS_MIN and _fit(factored.values())
    if not factored or not exact or any(gradient.is_sparse for gradient in plain.values()):
        whole = [g.whole() if isinstance(g, Factors) else g for g in gradients]
        return clip_gradients(whole, bound=bound, norm=norm, steps=steps)
    check_bound(bound, norm)
    counts = {len(gradient) for gradient in gradients}
    if len(counts) != 1:
        raise PrivacyUnitError(f"per-example gradients for different batch sizes: {counts}")
    return _clip(plain, factored, bound=bound, steps=steps)


def _fit(factored: Iterable[Factors]) -> bool:
    numbers, spread = 0, 0.0
    for factors in factored:
        _, wide, high = factors.shape
        numbers += wide * high
        spread += float(factors.inputs.shape[1]) ** 2 * wide * high
    return numbers <= _NUMBERS_MAX and spread <= _SPREAD_MAX


def _clip(
    plain: Mapping[int, Tensor], factored: Mapping[int, Factors], *, bound: float, steps: float
) -> ClippedSum:
    import torch

    parts = {number: _Part.of(factors) for number, factors in factored.items()}
    first = next(iter(parts.values())).outputs
    count = len(first)
    empty = torch.zeros((count, 0), device=first.device)
    rows = torch.cat([empty, *(gradient.detach().flatten(1) for gradient in plain.values())], dim=1)
    chunks = rows.split(rows_at_once(rows))  # type: ignore[no-untyped-call]  # torch's
    # Squares of float32 numbers are exact in float64, and inside its range.
    squared = torch.cat([tree_sum(some.double().square_()) for some in chunks])
    rounding = torch.zeros_like(squared)
    unit = bound / steps / 2.0**FINER
    for part in parts.values():
        squared = squared + part.squared
        rounding = rounding + part.rounding
    finite = squared.isfinite()
    lengths = squared.where(finite, torch.zeros_like(squared)).sqrt() * SLACK
    room = bound - rounding.where(finite, torch.zeros_like(squared)).sqrt() * unit
    shares = room / torch.maximum(lengths, room) * finite
    totals = dict(_whole_sums(plain, chunks, shares * (steps / bound), finite))
    rests = {}
    for number, part in parts.items():
        totals[number], rests[number] = part.summed(shares, unit)
    return ClippedSum(
        tensors=tuple(totals[number] for number in sorted(totals)),
        bound=bound,
        norm=2,
        zeroed=int((~finite).sum()),
        steps=steps,
        within=int((lengths > 0).sum()) - 2 * int((lengths > bound).sum()),
        rests=rests,
    )


def _whole_sums(
    plain: Mapping[int, Tensor], chunks: Sequence[Tensor], scale: Tensor, finite: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """By its number, each plain tensor's sum over examples, each put on the grid: int64[*shape]."""
    import torch

    total = torch.zeros(chunks[0].shape[1], dtype=torch.int64, device=scale.device)
    start = 0
    for some in chunks:
        here = slice(start, start + len(some))
        kept = some.double().masked_fill_(~finite[here, None], 0.0)  # a product would keep NaN
        total += kept.mul_(scale[here, None]).trunc_().sum(0).long()
        start += len(some)
    parts = total.split([math.prod(g.shape[1:]) for g in plain.values()])  # type: ignore[no-untyped-call]
    for (number, gradient), part in zip(plain.items(), parts, strict=True):
        yield number, part.view(gradient.shape[1:])


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One tensor's factors; ``inputs``, float64[n, t, in], are whole numbers in a ``unit`` of each example.

    ``squared``, float64[n], is no less than the squared length of the gradient of these inputs, in its own
    units, and not finite where a factor is not; ``rounding`` is that of what rounding ``outputs`` times
    anything to whole numbers adds to the product.
    """

    inputs: Tensor
    outputs: Tensor
    unit: Tensor
    squared: Tensor
    rounding: Tensor

    @classmethod
    def of(cls, factors: Factors) -> _Part:
        import torch

        given, outputs = factors.inputs.detach().double(), factors.outputs.detach().double()
        finite = given.isfinite().flatten(1).all(1) & outputs.isfinite().flatten(1).all(1)
        lost = ~finite[:, None, None]
        given, outputs = given.masked_fill(lost, 0.0), outputs.masked_fill(lost, 0.0)
        exponents = torch.frexp(given.abs().amax((1, 2))).exponent - INPUT_BITS
        unit = torch.ldexp(torch.ones_like(given[:, 0, 0]), exponents)
        inputs = (given / unit[:, None, None]).round_()
        long, wide = (tree_sum(each.flatten(1).square()) for each in (inputs, outputs))
        lengths = _lengths(inputs, outputs, long * wide) * unit
        places = inputs.shape[1]
        return cls(
            inputs=inputs,
            outputs=outputs,
            unit=unit,
            squared=lengths.square().masked_fill(~finite, torch.inf),
            # Each number is off by half at most: ‖δᵀ a‖ <= ‖δ‖ ‖a‖.
            rounding=0.25 * places * outputs.shape[2] * long,
        )

    def summed(self, shares: Tensor, unit: float) -> tuple[Tensor, Tensor]:
        """The sum of the gradients times each one's share, in whole steps, and the rest in ``unit``."""
        scale = shares * self.unit / unit
        whole = (self.outputs * scale[:, None, None]).round_()
        return exact_product(whole.flatten(0, 1), self.inputs.flatten(0, 1))


def _lengths(inputs: Tensor, outputs: Tensor, products: Tensor) -> Tensor:
    """No less than each gradient's length, float64[n]; ``products`` are those of its factors' squares.

    The error of a sum of products is that of the sum of their sizes, which is at most ‖a‖² ‖g‖². The last
    term is for rounding on the way to whole numbers. Each example's products are matrices of its own, so
    that no other example has a part in their rounding.
    """
    import torch

    places, spare = inputs.shape[1], 2.0**-48 * products.sqrt()
    if places == 1:
        return products.sqrt() + spare
    rounding = (inputs.shape[2] + outputs.shape[2] + places**2 + 8) * _ROUNDING
    squares = torch.zeros_like(products)
    for row, (each, gradient) in enumerate(zip(inputs, outputs, strict=True)):
        a, g = each.clone(), gradient.clone()  # whose place in memory may matter to a library
        squares[row] = ((a @ a.T) * (g @ g.T)).sum()
    return (squares.clamp_(min=0.0) + rounding * products).sqrt() + spare
