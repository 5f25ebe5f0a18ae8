"""FedSA-LoRA: A is averaged, and each site keeps a B of its own."""

from __future__ import annotations

from typing import ClassVar, Literal

from protocol.job.strategy import Strategy


class FedSA(Strategy):
    """A, and the head, are trained and shared; B is trained too, stays at its site and is never sent.

    The paper finds that A comes to hold what sites have in common, and B what is each one's own. So sites
    end with models of their own, B·A with one A: who has no B, such as the coordinator, has the base model
    with the shared head. Source: Guo et al. 2024 (arXiv:2410.01463), section 4.
    """

    name: Literal["fedsa"] = "fedsa"
    paper: ClassVar[str] = "Guo et al. 2024, FedSA-LoRA (arXiv:2410.01463)"
    keeps_local: ClassVar[bool] = True

    def keeps(self, name: str) -> bool:
        return ".lora_B." in name or super().keeps(name)
