"""What ``confide audit empirical`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confide.attack_view import print_verdict
from confide.console import plain_console, plain_table, shown
from runs.formats import format_count, format_lower, format_percent

if TYPE_CHECKING:
    from simulation.attack.empirical_audit import EmpiricalAudit

_SEES = {
    "site": "the site's update of each round",
    "rounds": "what each round releases",
    "adapter": "the last adapter alone",
}
_ASSUMES = {
    "any": "nothing of the mechanism",
    "curve": "the plan's mechanism, with other noise",
    "gaussian": "the plan's sampling, and Gaussian noise",
}


def print_empirical(audit: EmpiricalAudit) -> None:
    """An empirical audit for people: fits 80 columns."""
    console = plain_console()
    canaries = format_count(audit.canaries, "canary", "canaries")
    console.print(f"[bold]{shown(audit.job)}[/bold]: {canaries} at {shown(audit.site)}, {audit.present} in")
    rates = plain_table("attacker sees", "AUC", "TPR at FPR 0.1 %", "at 1 %")
    for attacker in audit.attackers:
        rates.add_row(
            _SEES[attacker.name],
            f"{attacker.auc.value:.3f}",
            format_percent(attacker.tpr_at_permille.value),
            format_percent(attacker.tpr_at_percent.value),
        )
    console.print(rates)
    bounds = plain_table("attacker", "assumes", "ε is at least", left=2)
    for bound in audit.bounds:
        bounds.add_row(bound.attacker, _ASSUMES[bound.form], format_lower(bound.epsilon))
    console.print(bounds)
    drawn = "as planned" if audit.drawn_as_planned else "[red]not as planned[/red]"
    console.print(f"canaries were drawn {drawn}: p = {audit.draws:.2g} if batches are Poisson samples")
    print_verdict(console, audit)
