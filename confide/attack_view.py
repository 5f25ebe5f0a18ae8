"""What ``confide audit sites``, ``attack`` and ``inversion`` show, and what all attacks end with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from confide.console import plain_console, plain_table, shown
from runs.formats import (
    format_cost,
    format_count,
    format_delta,
    format_epsilon,
    format_lower,
    format_percent,
)

if TYPE_CHECKING:
    from rich.console import Console

    from simulation.attack.finding import Claim
    from simulation.attack.inversion import Inversion
    from simulation.attack.membership_attack import MembershipAttack
    from simulation.attack.provenance import Provenance
    from simulation.attack.site_attack import SiteAudit

_TARGETS = {
    "own": ("example", "examples"),
    "labels": ("mislabelled example", "mislabelled examples"),
    "text": ("random text", "random texts"),
}
_GROUPS = {
    "own": ("group of rows", "groups of rows"),
    "labels": ("group of mislabelled rows", "groups of mislabelled rows"),
    "text": ("group of random texts", "groups of random texts"),
}
_COMPARES = {
    "loss": "its loss with others'",
    "reference": "with that of shadows without it",
    "lira": "with shadows with it and without",
    "gradient": "each round with its gradient",
}
_METHODS = {
    "pooled": "what the head's gradient says of the text's features",
    "span": "the span of what the lowest adapted layer read",
}
_VIEWS = {
    "update": "one site's update, as it is",
    "sum": "the sum under masks",
    "private sum": "the sum under masks, with noise",
}


def print_sites(audit: SiteAudit) -> None:
    """An audit of whole sites for people: fits 80 columns."""
    console = plain_console()
    console.print(
        f"[bold]{shown(audit.job)}[/bold]: {format_count(audit.sites, 'site')}, of which {audit.present} "
        f"send random directions; {format_count(audit.rounds, 'sum')} of {audit.numbers} numbers"
    )
    auc = audit.attackers[0].auc
    console.print(
        f"who sent what is told by cosines with an AUC of {auc.value:.3f} ± {(auc.high - auc.low) / 2:.3f}"
    )
    print_verdict(console, audit)


def print_attack(attack: MembershipAttack) -> None:
    """A membership attack for people: fits 80 columns."""
    console = plain_console()
    named = _GROUPS if attack.provenance.unit == "group" else _TARGETS
    targets = format_count(attack.targets, *named[attack.kind])
    console.print(
        f"[bold]{shown(attack.job)}[/bold]: {targets}, {attack.present} in; "
        f"{attack.shadows} shadow adapters"
    )
    table = plain_table("an attack compares", "AUC", "TPR at FPR 0.1 %", "at 1 %")
    for one in attack.attacks:
        table.add_row(
            _COMPARES[one.name],
            f"{one.auc.value:.3f} ± {(one.auc.high - one.auc.low) / 2:.3f}",
            format_percent(one.tpr_at_permille.value),
            format_percent(one.tpr_at_percent.value),
        )
    table.add_row("a coin", "0.500", "0.1 %", "1.0 %")
    limits = attack.limits
    if math.isfinite(attack.upper):
        table.add_row(
            "whatever can be, under the plan",
            f"{limits.auc:.3f}",
            format_percent(limits.tpr_at_permille),
            format_percent(limits.tpr_at_percent),
        )
    console.print(table)
    found = attack.exposure
    if found is not None:
        console.print(
            f"exposure {found.before:.2f} bits before training, {found.after:.2f} after; 1.44 if nothing "
            "was learned"
        )
    print_verdict(console, attack)


def print_inversion(inversion: Inversion) -> None:
    """An inversion for people: fits 80 columns."""
    console = plain_console()
    texts = format_count(inversion.texts, "text", "texts")
    console.print(
        f"[bold]{shown(inversion.job)}[/bold]: tokens of {texts} at {shown(inversion.site)}, "
        f"by {_METHODS[inversion.method]}"
    )
    table = plain_table("what the coordinator reads", "texts in the step", "found", "by chance", "exact")
    for view in inversion.views:
        table.add_row(
            _VIEWS[view.name],
            str(view.batch),
            format_percent(view.recall),
            format_percent(view.chance),
            format_percent(view.precision),
        )
    console.print(table)
    console.print(
        "found: of a text's different tokens, those that were guessed; by chance: the same guesses for "
        "other texts; exact: of the guesses, those that are in the text"
    )


def print_verdict(console: Console, claim: Claim) -> None:
    """What is claimed, what attacks show, and whether these refute it."""
    colour = "green" if claim.holds else "red"
    claimed = format_epsilon(claim.upper) if math.isfinite(claim.upper) else "∞ (no privacy)"
    console.print(
        f"[{colour}]{claim.verdict}[/{colour}]: claimed ε ≤ {claimed} at δ = {format_delta(claim.delta)}, "
        f"shown ε ≥ {format_lower(claim.lower)} (confidence {format_percent(claim.confidence)})"
    )


def print_cost(made: Provenance) -> None:
    """What a run and the attack on it took, in seconds of the processor's time."""
    print(f"processor time: {format_cost(made.run_seconds, made.attack_seconds)}")
