"""Clipped values: they know how much one unit can add to them, and noise is calibrated from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyUnitError

if TYPE_CHECKING:
    from torch import Tensor

# Between these, neither a bound over a norm nor its product with a gradient leaves float32's range.
_BOUND_MIN, _BOUND_MAX = 1e-12, 1e12
# 2^40 is above every bound, and its square, summed over 2^40 numbers, is inside float32's range.
_LARGE, _SHRINK = 2.0**40, 2.0**-80


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """A vector in which one unit weighs at most ``bound``: that unit's own, or a sum over units.

    ``value`` is float64[d], ``bound`` holds in the L1 or L2 norm, as ``norm`` says, and ``zeroed`` counts
    the units that were not finite and count as zero; it is as private as they are. Made by ``clip`` and
    ``clip_rows``, which keep that promise. Raises PrivacyUnitError if the bound is none.
    """

    value: NDArray[np.float64]
    bound: float
    norm: int
    zeroed: int = 0

    def __post_init__(self) -> None:
        _check_bound(self.bound, self.norm)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How much noise it takes, in how many parts."""
        return (len(self.value),)

    def plus(self, noise: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Add noise, one part of float64[d]: what comes back is no longer a clipped value."""
        (part,) = noise
        return self.value + part


@dataclass(frozen=True, kw_only=True)
class ClippedSum:
    """Sums of per-example gradients in which one example weighs at most ``bound``.

    ``tensors`` are float32 sums, one a parameter; ``bound`` holds for all of them together in the L1 or L2
    norm, as ``norm`` says; ``zeroed`` counts the examples that were not finite and count as zero. Made by
    ``clip_gradients``. Raises PrivacyUnitError if the bound is none.
    """

    tensors: tuple[Tensor, ...]
    bound: float
    norm: int
    zeroed: int

    def __post_init__(self) -> None:
        _check_bound(self.bound, self.norm)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How much noise it takes: one part a tensor."""
        return tuple(tensor.numel() for tensor in self.tensors)

    def plus(self, noise: Sequence[NDArray[np.float64]]) -> tuple[Tensor, ...]:
        """Add noise, float64[size] a tensor, rounded to float32 as it is added."""
        import torch

        return tuple(
            tensor + torch.from_numpy(part).to(tensor.device, tensor.dtype).view_as(tensor)
            for tensor, part in zip(self.tensors, noise, strict=True)
        )

    def joined(self, other: ClippedSum) -> ClippedSum:
        """Add the sums of other examples. Raises PrivacyUnitError if they were clipped otherwise."""
        if (self.bound, self.norm) != (other.bound, other.norm):
            raise PrivacyUnitError(
                f"expected sums clipped alike, got bound={self.bound}, norm={self.norm} and "
                f"bound={other.bound}, norm={other.norm}"
            )
        pairs = zip(self.tensors, other.tensors, strict=True)
        return ClippedSum(
            tensors=tuple(one + more for one, more in pairs),
            bound=self.bound,
            norm=self.norm,
            zeroed=self.zeroed + other.zeroed,
        )


@dataclass(frozen=True, kw_only=True)
class ClippedIntegers:
    """One unit's vector in fixed point, int64[d], whose L2 norm is at most ``bound``.

    Rounding to integers can lengthen a vector, so the bound is looked at again here. Raises
    PrivacyUnitError if the vector is longer, or is not int64.
    """

    value: NDArray[np.int64]
    bound: float

    def __post_init__(self) -> None:
        _check_bound(self.bound, 2)
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
    """Scale one unit's vector, float[d], down to ``bound`` in its L1 or L2 norm.

    A shorter vector stays as it is, a longer one keeps its direction, one that is not finite becomes zero.
    The norm of what comes back is at most ``bound · (1 + 1e-12)``: rounding in float64. Raises
    PrivacyUnitError unless ``bound`` is in [1e-12, 1e12] and ``norm`` is 1 or 2.
    """
    return clip_rows(np.asarray(vector)[None], bound=bound, norm=norm)


def clip_rows(rows: NDArray[np.floating], *, bound: float, norm: int) -> Clipped:
    """Clip each unit's row of float[n, d] as ``clip`` does, and add them up.

    Many counts are bounded so: a row a unit, holding a 1 for what it counts towards. A single one is better
    a ``Count``, whose noise is exact.
    """
    _check_bound(bound, norm)
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2:
        raise PrivacyUnitError(f"expected one vector a unit, got shape {rows.shape[1:]} for a unit")
    finite = np.isfinite(rows).all(axis=1)
    kept = np.where(finite[:, None], rows, 0.0)
    # Taken of numbers near 1, norms are right where squares would overflow or vanish.
    largest = np.abs(kept).max(axis=1, initial=0.0, keepdims=True)
    unit = kept / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(unit, norm, axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # a norm that overflows is infinite, and over the bound
        kept = np.where(largest * norms > bound, unit * (bound / np.maximum(norms, 1.0)), kept)
    return Clipped(value=kept.sum(axis=0), bound=bound, norm=norm, zeroed=int((~finite).sum()))


def clip_gradients(gradients: Sequence[Tensor], *, bound: float, norm: int) -> ClippedSum:
    """Clip each example over all tensors together, and add the examples up.

    ``gradients`` has one tensor a parameter, [n, *shape], in any precision; n may be 0. Norms and sums are
    float32. Before the sum, an example's norm is at most ``bound · (1 + 1e-5)``: 2^-24 for each rounding,
    and at most 170 of them in a row in a sum of 10^8 squares. Shorter examples stay as they are, and one
    that is not finite becomes zero and is counted. Raises PrivacyUnitError if tensors disagree on n, or
    unless ``bound`` is in [1e-12, 1e12] and ``norm`` is 1 or 2.

    Source: Abadi et al. 2016 (arXiv:1607.00133), algorithm 1.
    """
    import torch

    _check_bound(bound, norm)
    sizes = {len(gradient) for gradient in gradients}
    if len(sizes) != 1:
        raise PrivacyUnitError(f"per-example gradients for different batch sizes: {sizes}")
    rows = [gradient.detach().flatten(1).float() for gradient in gradients]
    largest = torch.stack([torch.linalg.vector_norm(row, torch.inf, dim=1) for row in rows]).amax(0)
    finite = largest.isfinite()
    # A row that holds a number over 2^40 is clipped in any case, and its squares may overflow: it is
    # made smaller first, by a power of two, which is exact.
    shrink = torch.where(largest > _LARGE, _SHRINK, 1.0)[:, None]
    # A product would keep NaN: 0 · NaN = NaN.
    rows = [torch.where(finite[:, None], row, 0.0).mul_(shrink) for row in rows]
    # Not torch's own norm: its float32 sums run in a line, and lose 0.6 % over 10^7 equal numbers.
    # ``sum`` adds in a tree.
    if norm == 1:
        norms = torch.stack([row.abs().sum(1) for row in rows]).sum(0)
    else:
        norms = torch.stack([row.square().sum(1) for row in rows]).sum(0).sqrt()
    scale = torch.minimum(bound / norms[:, None], 1.0 / shrink)
    # Products and sums one by one: a matrix product may be allowed to round to ten bits.
    sums = [row.mul_(scale).sum(0) for row in rows]
    return ClippedSum(
        tensors=tuple(s.view(g.shape[1:]) for s, g in zip(sums, gradients, strict=True)),
        bound=bound,
        norm=norm,
        zeroed=int((~finite).sum()),
    )


def _check_bound(bound: float, norm: int) -> None:
    if norm not in (1, 2):
        raise PrivacyUnitError(f"expected an L1 or L2 norm, got norm={norm}")
    if not _BOUND_MIN <= bound <= _BOUND_MAX:
        raise PrivacyUnitError(
            f"expected a bound in [{_BOUND_MIN:g}, {_BOUND_MAX:g}] on what one unit adds to the clipped "
            f"sum, got bound={bound}: without one no noise is enough"
        )
