"""The policy of a simulated site whose custodian is whoever simulates."""

from __future__ import annotations

from client.custody.policy import BudgetSection, Policy, RulesSection
from protocol.job.job import Job


def simulated_policy(job: Job, coordinator: bytes | None, *, epsilon: float) -> Policy:
    """What a simulated site allows: this job once, and nothing more.

    ``epsilon`` is what the job costs an example. Half of a budget's δ is for the runs' own, so it is twice
    the job's.
    """
    budget = BudgetSection(epsilon=epsilon, delta=2 * job.privacy.delta)
    rules = RulesSection(
        mechanisms=[job.privacy.mechanism],
        coordinator=coordinator.hex() if coordinator else None,
        metrics_epsilon=job.metrics.epsilon,
        central_noise="allowed",
        correlated_noise="allowed",
        weights="allowed",
    )
    return Policy(budget=budget, rules=rules)
