"""What a local step adds to its noisy gradient, so that sites do not drift apart within a round."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from opacus.optimizers import DPOptimizer
from torch import nn


class Correction:
    """Adds μ·(w − w₀), and a ``drift`` that stays the same all through the round, to each step's gradient.

    w are ``parameters`` and w₀ what they are when this is made: where the round began; μ is ``proximal``.
    ``drift`` has a tensor a parameter in a gradient's units, or None for those that have none.

    Privacy. It comes after the clipped sum has its noise and before the optimizer moves anything. What it
    adds follows from weights that earlier noisy steps made, from the adapter that the coordinator sent, and
    from what the site made of earlier noisy steps: no example enters but through a step that was charged.
    So it is post-processing, and costs nothing. Where steps have no noise (``unit = "site"``) the whole
    update is clipped after it, as without it.

    Source: Li et al. 2020, FedProx (arXiv:1812.06127), section 3.2; Karimireddy et al. 2020, SCAFFOLD
    (arXiv:1910.06378), algorithm 1, line 10.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        proximal: float,
        drift: Sequence[torch.Tensor | None],
    ) -> None:
        self._proximal = proximal
        self._parts = [
            (parameter.detach().clone() if proximal else None, None if part is None else part.to(parameter))
            for parameter, part in zip(parameters, drift, strict=True)
        ]

    def __call__(self, optimizer: DPOptimizer) -> None:
        """Correct the gradients that a step is about to take: called after the noise, once a step."""
        for parameter, (start, part) in zip(optimizer.params, self._parts, strict=True):
            if start is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self._proximal)
            if part is not None:
                parameter.grad.add_(part)
