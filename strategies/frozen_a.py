"""What strategies have in common that keep A as it is within a round."""

from __future__ import annotations

from typing import ClassVar

from protocol.job.strategy import Strategy


class FrozenA(Strategy):
    """B and the head are trained: with one A everywhere, the mean of B·A is the mean of B, times A.

    Source: Sun et al. 2024, FFA-LoRA (arXiv:2403.12313), section 4.
    """

    exact: ClassVar[bool] = True

    def trains(self, name: str) -> bool:
        return ".lora_A." not in name
