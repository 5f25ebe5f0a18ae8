"""Guesses at which canaries were in: what an attacker makes of scores, and how many come out right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.errors import AuditError

# Of the canaries, the shares that are guessed at, fixed before anything is seen. A bound that takes the
# best of them divides its error among them.
SHARES = (0.02, 0.1, 0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """Guesses ``made`` at so many ``canaries``, each in with probability ½ by itself, and those ``right``.

    At the others no guess was made. Raises AuditError for numbers that cannot be.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise AuditError(
                f"expected 0 <= right <= made <= canaries, got right={self.right}, made={self.made}, "
                f"canaries={self.canaries}"
            )


def guess(scores: NDArray[np.float64], present: NDArray[np.bool_], *, made: int) -> Guesses:
    """Guess at the ``made`` canaries whose scores are the furthest from 0: in if the score is above.

    ``scores`` is float64[m] and ``present`` bool[m]. What is guessed depends on scores alone: ``made`` must
    be chosen without knowing who is present, and equal scores are taken in the canaries' order. Raises
    AuditError for arrays that do not fit, or scores that are not numbers.
    """
    if scores.shape != present.shape or scores.ndim != 1:
        raise AuditError(f"expected one score a canary, got {scores.shape} and {present.shape}")
    if np.isnan(scores).any():
        raise AuditError("expected numbers as scores, got NaN: the run's results are not finite")
    chosen = np.argsort(-np.abs(scores), kind="stable")[:made]
    right = int(((scores[chosen] > 0) == present[chosen]).sum())
    return Guesses(canaries=len(scores), made=made, right=right)


def guess_shares(
    scores: NDArray[np.float64], present: NDArray[np.bool_], *, shares: Sequence[float] = SHARES
) -> tuple[Guesses, ...]:
    """Guesses at each of these shares of the canaries, one at least."""
    return tuple(guess(scores, present, made=max(1, round(share * len(scores)))) for share in shares)
