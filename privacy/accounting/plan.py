"""The plan: how much noise a whole training adds, fixed before its first step.

All that computes a noise or an ε takes it from a plan. There are five kinds, and a ledger has no
other.
"""

from __future__ import annotations

from typing import TypeAlias

from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.accounting.training_plan import TrainingPlan
from privacy.errors import PlanError

# What hides a whole site, in sums of all sites' updates.
SitePlan: TypeAlias = CentralSitePlan | SharedSitePlan
Plan: TypeAlias = TrainingPlan | SitePlan


def summed_plan(plan: Plan) -> SitePlan:
    """The same plan. Raises PlanError for an example's, whose releases are no sums of sites."""
    if not isinstance(plan, SitePlan):
        raise PlanError(f"expected a plan for unit='site', whose releases are sums, got {plan.unit!r}")
    return plan
