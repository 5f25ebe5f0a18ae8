"""The head alone: LoRA's pairs stay as they were drawn, which is to say without effect."""

from __future__ import annotations

from typing import ClassVar, Literal

from protocol.job.strategy import Strategy


class Head(Strategy):
    """Only the classifier's last layer is trained and averaged, on features that nothing moves.

    Its loss is convex, and it sends the least: what a rule that adapts the layers must do better than.
    Source: McMahan et al. 2017 (arXiv:1602.05629), algorithm 1, with one linear layer as the model.
    """

    name: Literal["head"] = "head"
    paper: ClassVar[str] = "McMahan et al. 2017, FedAvg of a linear layer (arXiv:1602.05629)"
    exact: ClassVar[bool] = True
    needs_head: ClassVar[bool] = True

    def trains(self, name: str) -> bool:
        return ".lora_" not in name
