"""FedEx-LoRA: the means of A and of B, and what their product lacks goes into the base."""

from __future__ import annotations

from typing import ClassVar, Literal

from strategies.by_layer import ByLayer, Matrices
from strategies.factors import Factors


class FedEx(ByLayer):
    """The residual takes mean(B·A) − mean(B)·mean(A), so that the merged product is the sites' mean.

    That is the mean of (B − mean(B))·(A − mean(A)): computed so, small differences of large products lose
    nothing. Source: Singhal et al. 2024 (arXiv:2410.09432), the residual error term.
    """

    name: Literal["fedex"] = "fedex"
    paper: ClassVar[str] = "Singhal et al. 2024, FedEx-LoRA (arXiv:2410.09432)"
    exact: ClassVar[bool] = True
    residual: ClassVar[bool] = True

    def merge_layer(self, factors: Factors, before: Matrices, merged: Matrices) -> None:  # noqa: ARG002
        pair = factors.pair
        # By the means as they are kept, in float32: what their rounding moves is as small.
        off = Factors(pair=pair, a=factors.a - merged[pair.a], b=factors.b - merged[pair.b])
        merged[pair.residual][:] += off.mean_product()
