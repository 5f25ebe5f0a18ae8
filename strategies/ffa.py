"""FFA-LoRA: A stays as it was drawn, and B is averaged."""

from __future__ import annotations

from typing import ClassVar, Literal

from strategies.frozen_a import FrozenA


class FFA(FrozenA):
    """With A the same everywhere, the mean of B times A is the mean of the products.

    It sends half of what both factors would be, and noise in one factor is not multiplied by noise in the
    other. Source: Sun et al. 2024 (arXiv:2403.12313), section 4.
    """

    name: Literal["ffa"] = "ffa"
    paper: ClassVar[str] = "Sun et al. 2024, FFA-LoRA (arXiv:2403.12313)"
