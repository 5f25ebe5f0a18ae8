"""RoLoRA: B is trained and averaged in odd rounds, A in even ones."""

from __future__ import annotations

from typing import ClassVar, Literal

from protocol.job.strategy import Strategy


class RoLoRA(Strategy):
    """One factor of each pair is the same everywhere in each round, so that products are averaged exactly.

    B comes first: it starts at zero, and as long as it is zero, A has no gradient. The head is trained in
    every round. Source: Chen et al. 2024 (arXiv:2409.02346), section 3.
    """

    name: Literal["rolora"] = "rolora"
    paper: ClassVar[str] = "Chen et al. 2024, RoLoRA (arXiv:2409.02346)"
    exact: ClassVar[bool] = True
    cycle: ClassVar[int] = 2

    def trains_in(self, name: str, round_number: int) -> bool:
        return (".lora_A." if round_number % 2 else ".lora_B.") not in name
