"""The ε that a run's sites have spent on training, from what it has finished."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runs.metrics import Metrics
from runs.run_folder import RoundRecord


def last_epsilon(records: Iterable[RoundRecord], metrics: Metrics | None = None) -> dict[str, float | None]:
    """The ε of each site after the last of its rounds, in order of the names.

    With a run's ``metrics`` it is after the steps, too, that sites took for themselves when they told them.
    """
    spent: dict[str, float | None] = {}
    for record in records:
        spent |= record.epsilon
    if metrics is not None:
        spent |= metrics.spent
    return dict(sorted(spent.items()))


def highest_epsilon(records: Sequence[RoundRecord], metrics: Metrics | None = None) -> float | None:
    """The largest ε among the sites so far; None before the first round, or if one has no bound."""
    spent = last_epsilon(records, metrics).values()
    known = [value for value in spent if value is not None]
    return max(known) if known and len(known) == len(spent) else None
