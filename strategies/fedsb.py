"""Fed-SB: of each layer a small square matrix between two fixed factors is trained, and averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from protocol.job.strategy import Strategy

if TYPE_CHECKING:
    from protocol.job.job import Job


class FedSB(Strategy):
    """A layer adds s · B · R · A. B and A are fixed, and R, [rank, rank], is what sites train and send.

    With B and A the same everywhere, the mean of the cores, between them, is the mean of the products. B
    and A are the largest singular vectors of the layer's own weight, and R begins at zero, so that the
    first adapter changes nothing. The paper takes them from the first gradient of full fine-tuning: that
    reads examples before anything is accounted for, and would be a release of its own.

    Sources: Singhal et al. 2025 (arXiv:2502.15371), section 3; Bałazy et al. 2024, LoRA-XS
    (arXiv:2405.17604), section 3, for the singular vectors.
    """

    name: Literal["fedsb"] = "fedsb"
    paper: ClassVar[str] = "Singhal et al. 2025, Fed-SB (arXiv:2502.15371)"
    exact: ClassVar[bool] = True
    cored: ClassVar[bool] = True

    def allows(self, job: Job) -> None:
        super().allows(job)
        if job.adapter.init != "orthonormal":
            raise ValueError(
                f'adapter.init: expected "orthonormal" with strategy.name="{self.name}", whose factors are '
                f'singular vectors and whose cores begin at zero, got "{job.adapter.init}"'
            )

    def trains(self, name: str) -> bool:
        return ".lora_A." not in name and ".lora_B." not in name
