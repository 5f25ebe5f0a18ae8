"""What an attack that is repeated over many runs proves: exact bounds from how often it is right."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import beta  # type: ignore[import-untyped]

from privacy.errors import AuditError


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Runs with the canary in, and how many of them the attack calls so; runs without, and the same.

    Each run is by itself, and the attack was fixed before any of them. Raises AuditError for numbers that
    cannot be.
    """

    runs_in: int
    hits_in: int
    runs_out: int
    hits_out: int

    def __post_init__(self) -> None:
        if not (0 <= self.hits_in <= self.runs_in > 0 and 0 <= self.hits_out <= self.runs_out > 0):
            raise AuditError(f"expected runs with the canary and without, and hits among them, got {self}")


def rate_interval(hits: int, runs: int, *, error: float) -> tuple[float, float]:
    """A rate's exact two-sided interval: each end is wrong with a probability of ``error`` / 2 at most.

    Source: Clopper and Pearson 1934.
    """
    low = float(beta.ppf(error / 2, hits, runs - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - error / 2, hits + 1, runs - hits)) if hits < runs else 1.0
    return low, high


def many_runs_bound(hits: Hits, *, delta: float, error: float) -> float:
    """The ε that the attack's rates refute at this ``error``, whatever the mechanism.

    Privacy holds TPR <= e^ε · FPR + δ, and the same of 1 − FPR and 1 − TPR.

    Source: Jagielski, Ullman and Oprea 2020 (arXiv:2006.07709), section 3; Nasr et al. 2021
    (arXiv:2101.04535).
    """
    least_true, _ = rate_interval(hits.hits_in, hits.runs_in, error=error)
    _, most_false = rate_interval(hits.hits_out, hits.runs_out, error=error)
    found = [
        math.log((likely - delta) / rare)
        for likely, rare in ((least_true, most_false), (1 - most_false, 1 - least_true))
        if likely > delta and rare > 0
    ]
    return max(0.0, *found) if found else 0.0
