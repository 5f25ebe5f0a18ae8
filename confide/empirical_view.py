"""What ``confide audit empirical`` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from confide.console import plain_console, plain_table, shown
from runs.formats import format_count, format_delta, format_epsilon, format_lower, format_percent

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


def empirical_table(audit: EmpiricalAudit) -> dict[str, Any]:
    """An empirical audit as JSON shows it."""
    return {
        "job": audit.job,
        "site": audit.site,
        "canaries": audit.canaries,
        "present": audit.present,
        "delta": audit.delta,
        "bounds": [asdict(bound) for bound in audit.bounds],
        "draws": audit.draws,
        "attackers": [asdict(attacker) for attacker in audit.attackers],
        "upper": audit.upper,
        "lower": audit.lower,
        "margin": audit.margin,
        "confidence": audit.confidence,
        "verdict": audit.verdict,
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
    colour = "green" if audit.verdict == "not refuted" else "red"
    console.print(
        f"[{colour}]{audit.verdict}[/{colour}]: claimed ε ≤ {format_epsilon(audit.upper)} at "
        f"δ = {format_delta(audit.delta)}, shown ε ≥ {format_lower(audit.lower)} with confidence "
        f"{format_percent(audit.confidence)}; margin {audit.margin:.2f}"
    )
