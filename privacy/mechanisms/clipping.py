"""Clipped values: integers that know how much one unit can add to them, and noise is calibrated from that.

Every unit's vector is put on a grid by itself, before anything is added up: so what it adds is a function
of it alone, and sums are exact, in whatever order. Floats would not do. Their sums round differently with
other units in them, and noise in floats leaves outputs that only some sums can have (Mironov 2012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.exact_products import Rests, with_rests

if TYPE_CHECKING:
    from torch import Tensor

# How many steps of the grid make the bound, whatever the bound is. It is so fine that what is cut off is
# nothing beside any noise, also where few gradients are as long as the bound; and an int64 has room for the
# sum of 2^22 units. One of more may wrap around, which is of use to nobody: noise hides it modulo 2^64 too.
STEPS = 2**40
# A bound and its square, in units of a step, are far inside float64's range.
_BOUND_MIN, _BOUND_MAX = 1e-12, 1e12
# Norms are float64 sums of at most 2^40 terms, in a tree: right to 2^-46. A unit whose norm may be over the
# bound is made shorter by this much.
SLACK = 1.0 + 2.0**-20
# Numbers that are clipped at once: 4 MiB of float64 on a processor, more where there are many cores.
_CACHED, _PARALLEL = 2**19, 2**24


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """A vector of integers in which one unit weighs at most ``bound``: its own, or a sum over units.

    ``value`` is int64[d] in units of ``step``. ``bound`` holds in the L1 or L2 norm, as ``norm`` says, and
    is ``steps`` of the grid. ``zeroed`` counts the units that were not finite and count as zero; it is as
    private as they are. Made by ``clip`` and ``clip_rows``, which keep that promise. Raises
    PrivacyUnitError if the bound is none.
    """

    value: NDArray[np.int64]
    bound: float
    norm: int
    steps: float = STEPS
    zeroed: int = 0

    def __post_init__(self) -> None:
        check_bound(self.bound, self.norm)

    @property
    def step(self) -> float:
        """The grid's step, in the units of ``bound``."""
        return self.bound / self.steps

    @property
    def reals(self) -> NDArray[np.float64]:
        """The vector that the integers stand for, float64[d]."""
        return self.value.astype(np.float64) * self.step

    @property
    def sizes(self) -> tuple[int, ...]:
        """How much noise it takes, in how many parts."""
        return (len(self.value),)

    def plus(self, noise: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Add noise, one part of int64[d], and take the integers for what they stand for: float64[d]."""
        (part,) = noise
        return (self.value + part).astype(np.float64) * self.step

    def joined(self, other: Clipped) -> Clipped:
        """Add the sum of other units. Raises PrivacyUnitError if they were clipped otherwise."""
        _check_alike(self, other)
        return replace(self, value=self.value + other.value, zeroed=self.zeroed + other.zeroed)


@dataclass(frozen=True, kw_only=True)
class ClippedSum:
    """Sums of per-example gradients in which one example weighs at most ``bound``.

    ``tensors`` are int64 sums, one a parameter, in units of ``step``; ``bound`` holds for all of them
    together in the L1 or L2 norm, as ``norm`` says, and is ``steps`` of the grid; ``zeroed`` counts the
    examples that were not finite and count as zero. ``within`` is how many more examples were no longer
    than the bound than were longer; those of length zero are neither, so that blank ones add nothing. A
    tensor's ``rests`` are what its sum has beyond whole steps, which no release has. Made by
    ``clip_gradients`` and ``clip_found``. Raises PrivacyUnitError if the bound is none.
    """

    tensors: tuple[Tensor, ...]
    bound: float
    norm: int
    zeroed: int
    steps: float = STEPS
    within: int = 0
    rests: Rests = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bound(self.bound, self.norm)

    @property
    def step(self) -> float:
        """The grid's step, in the units of ``bound``."""
        return self.bound / self.steps

    @property
    def sizes(self) -> tuple[int, ...]:
        """How much noise it takes: one part a tensor."""
        return tuple(tensor.numel() for tensor in self.tensors)

    def plus(self, noise: Sequence[NDArray[np.int64]]) -> tuple[Tensor, ...]:
        """Add noise, int64[size] a tensor, and take the integers for what they stand for: float64."""
        import torch

        return tuple(
            (tensor + torch.from_numpy(part).to(tensor.device).view_as(tensor)).double() * self.step
            for tensor, part in zip(self.tensors, noise, strict=True)
        )

    def refined(self, times: int) -> ClippedSum:
        """The same sums, in whole steps, on a grid that is ``times`` as fine."""
        tensors = tuple(tensor * times for tensor in self.tensors)
        return replace(self, tensors=tensors, steps=self.steps * times, rests={})

    def joined(self, other: ClippedSum) -> ClippedSum:
        """Add the sums of other examples. Raises PrivacyUnitError if they were clipped otherwise."""
        _check_alike(self, other)
        pairs = zip(self.tensors, other.tensors, strict=True)
        tensors, rests = with_rests([one + more for one, more in pairs], self.rests, other.rests)
        zeroed, within = self.zeroed + other.zeroed, self.within + other.within
        return replace(self, tensors=tensors, zeroed=zeroed, within=within, rests=rests)


@dataclass(frozen=True, kw_only=True)
class ClippedIntegers:
    """One unit's vector in fixed point, int64[d], whose L2 norm is at most ``bound``.

    Rounding to integers can lengthen a vector, so the bound is looked at again here. Raises
    PrivacyUnitError if the vector is longer, or is not int64.
    """

    value: NDArray[np.int64]
    bound: float

    def __post_init__(self) -> None:
        check_bound(self.bound, 2)
        if self.value.dtype != np.int64 or self.value.ndim != 1:
            raise PrivacyUnitError(
                f"expected int64[d], got {self.value.dtype} of shape {self.value.shape}: encode it first"
            )
        found = float(np.linalg.norm(self.value.astype(np.float64)))
        # The norm is summed in float64: off by less than this for 2^40 numbers.
        if found > self.bound * (1 + 1e-12):
            raise PrivacyUnitError(
                f"expected an integer vector of norm <= bound, got norm={found}, bound={self.bound}: "
                "clip to a bound that leaves room for the rounding"
            )

    @property
    def l1_bound(self) -> float:
        """The L1 norm that follows: integers have ``|x| <= x²``, and d of them a factor √d at most."""
        return min(self.bound**2, float(np.sqrt(len(self.value))) * self.bound)


def clip(vector: NDArray[np.floating], *, bound: float, norm: int) -> Clipped:
    """Scale one unit's vector, float[d], down to ``bound`` in its L1 or L2 norm, and put it on the grid.

    No number grows on the way: each is cut off towards zero, by less than a step. A shorter vector stays as
    it is but for that, a longer one keeps its direction, one that is not finite becomes zero. The norm of
    what comes back is at most 2^40 steps, which are the bound. Raises PrivacyUnitError unless ``bound`` is
    in [1e-12, 1e12] and ``norm`` is 1 or 2.
    """
    return clip_rows(np.asarray(vector)[None], bound=bound, norm=norm)


def clip_rows(rows: NDArray[np.floating], *, bound: float, norm: int) -> Clipped:
    """Clip each unit's row of float[n, d] as ``clip`` does, and add them up.

    Many counts are bounded so: a row a unit, holding a 1 for what it counts towards.
    """
    check_bound(bound, norm)
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2:
        raise PrivacyUnitError(f"expected one vector a unit, got shape {rows.shape[1:]} for a unit")
    finite = np.isfinite(rows).all(axis=1)
    kept = np.where(finite[:, None], rows, 0.0)
    # Taken of numbers near 1, norms are right where squares would overflow or vanish.
    largest = np.abs(kept).max(axis=1, initial=0.0, keepdims=True)
    unit = kept / np.where(largest > 0, largest, 1.0)
    sizes = np.abs(unit) if norm == 1 else np.square(unit)
    lengths = tree_sum(sizes)[:, None]
    lengths = lengths if norm == 1 else np.sqrt(lengths)
    with np.errstate(over="ignore"):  # a norm that overflows is infinite, and over the bound
        longer = largest * lengths * SLACK > bound
        shorter = kept * (STEPS / bound)
    scaled = np.where(longer, unit * (STEPS / np.maximum(lengths * SLACK, 1.0)), shorter)
    return Clipped(
        value=np.trunc(scaled).astype(np.int64).sum(axis=0),
        bound=bound,
        norm=norm,
        zeroed=int((~finite).sum()),
    )


def clip_gradients(
    gradients: Sequence[Tensor], *, bound: float, norm: int, steps: float = STEPS
) -> ClippedSum:
    """Clip each example over all tensors together, put it on the grid, and add the examples up.

    ``gradients`` has one tensor a parameter, [n, *shape], in float32 or less; n may be 0. One may be sparse
    in its first dimension: rows that it does not have are zero, and cost nothing. Guarantee: an
    example adds at most ``steps`` of the grid, which are the bound, in the L1 or L2 ``norm``; and what it
    adds depends on its own gradient alone, to the last bit: every sum over its numbers is a tree of
    single additions, which no shape of the batch changes. Shorter examples stay as they are but for
    less than a step a number, and one that is not finite becomes zero and is counted. Raises
    PrivacyUnitError if tensors disagree on n, or unless ``bound`` is in [1e-12, 1e12] and ``norm`` is 1
    or 2.

    Source: Abadi et al. 2016 (arXiv:1607.00133), algorithm 1.
    """
    import torch

    check_bound(bound, norm)
    counts = {len(gradient) for gradient in gradients}
    if len(counts) != 1:
        raise PrivacyUnitError(f"per-example gradients for different batch sizes: {counts}")
    if any(gradient.is_sparse for gradient in gradients):
        return _clip_each(gradients, bound=bound, norm=norm, steps=steps)
    given = torch.cat([_with_float64(gradient.detach()).flatten(1) for gradient in gradients], dim=1)
    total = torch.zeros(given.shape[1], dtype=torch.int64, device=given.device)
    zeroed = within = 0
    for some in given.split(rows_at_once(given)):  # type: ignore[no-untyped-call]  # torch's
        whole, lost, more = _on_the_grid(some, bound=bound, norm=norm, steps=steps)
        total += whole.sum(0).long()
        zeroed, within = zeroed + lost, within + more
    sums = total.split([math.prod(gradient.shape[1:]) for gradient in gradients])  # type: ignore[no-untyped-call]
    return ClippedSum(
        tensors=tuple(s.view(g.shape[1:]) for s, g in zip(sums, gradients, strict=True)),
        bound=bound,
        norm=norm,
        zeroed=zeroed,
        steps=steps,
        within=within,
    )


def _clip_each(gradients: Sequence[Tensor], *, bound: float, norm: int, steps: float) -> ClippedSum:
    """As ``clip_gradients``, an example at a time, of what the tensors have of it."""
    import torch

    sums = [torch.zeros(g.shape[1:], dtype=torch.int64, device=g.device) for g in gradients]
    held: list[list[tuple[int, Tensor]]] = [[] for _ in range(len(gradients[0]))]
    for number, gradient in enumerate(gradients):
        rows, values = list(range(len(held))), gradient.detach()
        if gradient.is_sparse:
            whole = values.coalesce()
            rows, values = whole.indices()[0].tolist(), whole.values()
        for row, value in zip(rows, values, strict=True):
            held[row].append((number, value.flatten()))
    zeroed = within = 0
    for parts in held:
        if not parts:
            continue
        example = torch.cat([value for _, value in parts])
        grid, lost, more = _on_the_grid(_with_float64(example)[None], bound=bound, norm=norm, steps=steps)
        for (number, _), part in zip(parts, grid[0].split([len(value) for _, value in parts]), strict=True):  # type: ignore[no-untyped-call]
            sums[number] += part.long().to(sums[number].device).view_as(sums[number])
        zeroed, within = zeroed + lost, within + more
    return ClippedSum(
        tensors=tuple(sums), bound=bound, norm=norm, zeroed=zeroed, steps=steps, within=within
    )


def _on_the_grid(rows: Tensor, *, bound: float, norm: int, steps: float) -> tuple[Tensor, int, int]:
    """Each row clipped and put on the grid, whole numbers in float64[n, d].

    With it, how many were not finite, and how many more were no longer than the bound than were longer.
    """
    exact = rows.double()
    # Squares of float32 numbers are exact in float64, and inside its range: only what is not finite has a
    # length that is not.
    lengths = tree_sum(exact.abs() if norm == 1 else exact.square())
    finite = lengths.isfinite()
    if not finite.all():
        # A product would keep NaN: 0 · NaN = NaN.
        exact, lengths = exact.masked_fill(~finite[:, None], 0.0), lengths.masked_fill(~finite, 0.0)
    lengths = (lengths if norm == 1 else lengths.sqrt()) * SLACK
    scale = steps / lengths.clamp(min=bound)
    within = int((lengths > 0).sum()) - 2 * int((lengths > bound).sum())
    return exact.mul_(scale[:, None]).trunc_(), int((~finite).sum()), within


def rows_at_once(rows: Tensor) -> int:
    """How many rows are clipped at once; at most 2^12.

    Under 2^53, as are the sums of 2^12 numbers on the grid, float64 adds whole numbers exactly, in whatever
    order. On a processor as many as its cache holds: each row goes through memory once and not ten times.
    """
    most = _CACHED if rows.device.type == "cpu" else _PARALLEL
    return min(2**12, max(1, most // max(1, rows.shape[1])))


def _with_float64(tensor: Tensor) -> Tensor:
    """The tensor, on the processor if it is on one of Apple's GPUs, which have no float64."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def tree_sum(terms: Any) -> Any:
    """The sum of each row, [n, d] to [n], of an array or a tensor, which is used up.

    The second half is added to the first until one number is left: libraries' own sums choose an order by
    the shape of the whole batch.
    """
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0] if width else terms.sum(1)


def _check_alike(one: Clipped | ClippedSum, other: Clipped | ClippedSum) -> None:
    if (one.bound, one.norm, one.steps) != (other.bound, other.norm, other.steps):
        raise PrivacyUnitError(
            f"expected sums clipped alike, got bound={one.bound}, norm={one.norm} and "
            f"bound={other.bound}, norm={other.norm}"
        )


def check_bound(bound: float, norm: int) -> None:
    """Raises PrivacyUnitError unless the norm is 1 or 2 and the bound one that noise can be made for."""
    if norm not in (1, 2):
        raise PrivacyUnitError(f"expected an L1 or L2 norm, got norm={norm}")
    if not _BOUND_MIN <= bound <= _BOUND_MAX:
        raise PrivacyUnitError(
            f"expected a bound in [{_BOUND_MIN:g}, {_BOUND_MAX:g}] on what one unit adds to the clipped "
            f"sum, got bound={bound}: without one no noise is enough"
        )
