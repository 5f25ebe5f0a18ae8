"""An adapter's pairs of LoRA: for each layer its B and A, whose product is what they add to its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout

_A, _B = ".lora_A.", ".lora_B."


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """B, float64[m, r], and A, float64[r, n], of one layer."""

    b: NDArray[np.float64]
    a: NDArray[np.float64]

    @classmethod
    def mean(cls, pairs: Sequence[Self], shares: NDArray[np.float64]) -> Self:
        """B̄ and Ā, each averaged for itself with these weights."""
        return cls(
            b=np.tensordot(shares, np.stack([pair.b for pair in pairs]), axes=1),
            a=np.tensordot(shares, np.stack([pair.a for pair in pairs]), axes=1),
        )


def pairs(layout: AdapterLayout, adapter: NDArray[np.float32]) -> dict[str, Pair]:
    """Each layer's pair, by the layer's name. Raises ProtocolError for a vector of another layout."""
    tensors = layout.split(adapter)
    return {
        name.partition(_B)[0]: Pair(
            b=tensors[name].astype(np.float64), a=tensors[name.replace(_B, _A)].astype(np.float64)
        )
        for name in tensors
        if _B in name
    }


def b_name(layout: AdapterLayout, layer: str) -> str:
    """What a layer's B is called in the layout."""
    return next(slot.name for slot in layout.slots if slot.name.startswith(f"{layer}{_B}"))
