"""Products of integer matrices by float64's own, exact in whatever order a library adds.

Partial sums are whole numbers of at most 2^53 in size, which float64 holds, so no addition rounds. What is
larger is cut into slices of 20 bits, each multiplied by itself.

Source: Ozaki et al. 2012, "Error-free transformations of matrix multiplication by using fast routines of
matrix multiplication", for slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# How many bits finer a product is than the grid of the sums that it is for.
FINER = 20
# Of these many bits, with a sign, are the whole numbers that slices are multiplied by.
INPUT_BITS = 24
# Slices have |v| <= 2^19 and inputs |a| <= 2^24: sums of 2^10 products are at most 2^53.
_TERMS = 2**10
# Slice k stands for 2^(20 (k - 1)) steps: from the fifth on that is a multiple of 2^64, or nothing in an
# int64.
_SLICES = 5

# By a tensor's number: int64 in [0, 2^20), what its sum has beyond whole steps, in units of 2^-20 steps.
Rests = Mapping[int, "Tensor"]


def exact_product(outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The product outputsᵀ · inputs, [out, in], of whole numbers in float64[terms, …], exact modulo 2^84.

    ``inputs`` are at most 2^24 in size, ``outputs`` of any. It is int64 twice: whole · 2^20 + rest, with
    the rest in [0, 2^20) and the whole modulo 2^64.
    """
    import torch

    shape = outputs.shape[1], inputs.shape[1]
    whole = torch.zeros(shape, dtype=torch.int64, device=inputs.device)
    rest = torch.zeros_like(whole)
    for number in range(_SLICES):
        upper = (outputs * 2.0**-FINER).round_()
        lower = outputs - upper * 2.0**FINER
        outputs = upper
        if not lower.any():
            continue
        for some, given in zip(lower.split(_TERMS), inputs.split(_TERMS), strict=True):  # type: ignore[no-untyped-call]
            found = (some.T @ given).long()
            if number:
                whole += found << FINER * (number - 1)
            else:
                # Carried at once: 2^10 of them would be 2^63.
                more, rest = _carried(torch.zeros_like(whole), rest + found)
                whole += more
    return whole, rest


def with_rests(
    tensors: Sequence[Tensor], one: Rests, other: Rests
) -> tuple[tuple[Tensor, ...], dict[int, Tensor]]:
    """Sums on the grid, one a tensor, and two sums' rests added up: whole steps of them are carried."""
    totals = list(tensors)
    rests: dict[int, Tensor] = {}
    for number in sorted({*one, *other}):
        held = [part[number] for part in (one, other) if number in part]
        totals[number], rests[number] = _carried(totals[number], sum(held[1:], start=held[0]))
    return tuple(totals), rests


def _carried(whole: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    more = rest >> FINER  # rounds down, below zero too
    return whole + more, rest - (more << FINER)
