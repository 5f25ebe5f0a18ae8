"""LoRA-FAIR: after A and B are averaged, B is corrected towards the mean of the products."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from strategies.by_layer import ByLayer, Matrices
from strategies.factors import Factors


class LoRAFAIR(ByLayer):
    """A and B are averaged, and then B is moved so that B·A is nearer to the mean of the sites' products.

    ``penalty`` is the paper's λ: how dear it is to move B. Sums of A and of B do not tell the mean product,
    so that each site's update must be read.

    Source: Bian et al. 2024 (arXiv:2411.14961), section 4, with the squared distance for its S.
    """

    name: Literal["lora_fair"] = "lora_fair"
    penalty: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.01
    paper: ClassVar[str] = "Bian et al. 2024, LoRA-FAIR (arXiv:2411.14961)"

    def merge_layer(self, factors: Factors, before: Matrices, merged: Matrices) -> None:  # noqa: ARG002
        merged[factors.pair.b][:] += _correction(factors, self.penalty).astype(np.float32)


def _correction(factors: Factors, penalty: float) -> NDArray[np.float64]:
    """ΔB, float64[m, r], that makes ‖Σp·B·A − (B̄ + ΔB)·Ā‖² + λ·‖ΔB‖² least; weights p are equal.

    It is E·Āᵀ·(Ā·Āᵀ + λ·I)⁻¹ for E = Σp·B·A − B̄·Ā = Σp·(B − B̄)·(A − Ā), which is not formed.
    """
    mean_a, off = factors.a.mean(axis=0), factors.less_means()
    missed = off.stacked_b @ (off.stacked_a @ mean_a.T) / len(factors.a)
    gram = mean_a @ mean_a.T + penalty * np.eye(len(mean_a))
    found: NDArray[np.float64] = np.linalg.solve(gram, missed.T).T
    return found
