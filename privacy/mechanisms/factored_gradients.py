"""Per-example gradients of a linear layer's weight as the two factors that they are products of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.errors import PrivacyUnitError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Factors:
    """One gradient an example, outputsᵀ · inputs, [out, in] each, which nobody needs to hold.

    ``inputs``, float[n, t, in], is what the layer was given at each of an example's t places, and
    ``outputs``, float[n, t, out], the gradients of what it made of them. Several uses of one weight by an
    example are places of one gradient, so that it is clipped as one. Raises PrivacyUnitError for factors
    that do not fit together.
    """

    inputs: Tensor
    outputs: Tensor

    def __post_init__(self) -> None:
        if self.inputs.ndim != 3 or self.inputs.shape[:2] != self.outputs.shape[:2]:
            raise PrivacyUnitError(
                "expected inputs [n, t, in] and gradients of outputs [n, t, out], got "
                f"{list(self.inputs.shape)} and {list(self.outputs.shape)}"
            )

    @classmethod
    def blank(cls, count: int, *, like: Factors) -> Factors:
        """Gradients of so many examples that are zero."""
        return cls(
            inputs=like.inputs.new_zeros((count, *like.inputs.shape[1:])),
            outputs=like.outputs.new_zeros((count, *like.outputs.shape[1:])),
        )

    @classmethod
    def joined(cls, parts: Sequence[Factors], *, dim: int) -> Factors:
        """Those of several batches' examples (``dim=0``), or of several uses of one weight (``dim=1``)."""
        import torch

        return cls(
            inputs=torch.cat([part.inputs for part in parts], dim=dim),
            outputs=torch.cat([part.outputs for part in parts], dim=dim),
        )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of the gradients: [n, out, in]."""
        return len(self), self.outputs.shape[2], self.inputs.shape[2]

    @property
    def numbers(self) -> Tensor:
        """All that an example's gradient is computed from: [n, t · (in + out)]."""
        import torch

        return torch.cat([self.inputs.flatten(1), self.outputs.flatten(1)], dim=1)

    def whole(self) -> Tensor:
        """The gradients themselves, float32[n, out, in].

        Each is a product by itself, of copies: what a library makes of one may depend on how many it is
        given at once, and on where they lie.
        """
        import torch

        pairs = zip(self.outputs, self.inputs, strict=True)
        products = [outputs.float().clone().T @ inputs.float().clone() for outputs, inputs in pairs]
        return torch.stack(products) if products else self.inputs.new_zeros(self.shape).float()

    def take(self, rows: Tensor) -> Factors:
        """Those of the examples at ``rows``, int64[k]."""
        return Factors(inputs=self.inputs.index_select(0, rows), outputs=self.outputs.index_select(0, rows))


def numbers_spared(*, places: int, shape: Sequence[int]) -> float:
    """How many times as many numbers as its factors, at so many places, a gradient [out, in] has."""
    return math.prod(shape) / (places * sum(shape))
