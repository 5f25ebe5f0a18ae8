"""FedIT: LoRA's A and B are averaged, each for itself."""

from __future__ import annotations

from typing import ClassVar, Literal

from protocol.job.strategy import Strategy


class LoRA(Strategy):
    """Both factors of each pair are trained. The mean of the products is not the product of the means.

    Source: Zhang et al. 2023 (arXiv:2305.05644), section 3.2.
    """

    name: Literal["lora"] = "lora"
    paper: ClassVar[str] = "Zhang et al. 2023, FedIT (arXiv:2305.05644)"
