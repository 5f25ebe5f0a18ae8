"""What ``confide audit`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confide.console import plain_console, plain_table, shown
from privacy.accounting.banded_plan import BandedPlan
from privacy.accounting.phased_plan import phases_of
from privacy.ledger.entries import Approved, ClockSet, Closed, Frozen, Rebudgeted, Refused, Unfrozen
from privacy.ledger.ledger_clock import in_days
from protocol.moments import utc_minute
from runs.formats import format_count, format_delta, format_epsilon, format_left

if TYPE_CHECKING:
    from privacy.ledger.entries import Entry
    from privacy.ledger.ledger_audit import AuditedPlan, LedgerAudit
    from runs.run_audit import AuditedSite, RunAudit

_HASH = 16


def ledger_table(audit: LedgerAudit) -> dict[str, Any]:
    """An audited ledger as JSON shows it."""
    return {
        "ok": True,
        "site": audit.site,
        "public_key": audit.public_key,
        "entries": len(audit.entries),
        "head": audit.head,
        "complete": audit.complete,
        "budget": {
            "epsilon": audit.budget.epsilon,
            "delta": audit.budget.delta,
            "order": audit.budget.order,
            "unit": audit.budget.unit,
            "adjacency": audit.budget.adjacency,
        },
        "datasets": [
            {
                "number": dataset.number,
                "fingerprint": dataset.fingerprint,
                "examples": dataset.examples,
                "epsilon": dataset.epsilon,
            }
            for dataset in audit.datasets
        ],
        "plans": [_plan_row(plan) for plan in audit.plans],
        "refusals": [
            {
                "entry": entry.number,
                "time": entry.time,
                "run": event.run,
                "rule": event.rule,
                "reason": event.reason,
            }
            for entry in audit.entries
            if isinstance(event := entry.event, Refused)
        ],
        "refused_enough": audit.refused_enough,
        "frozen": audit.frozen,
        "freezes": [
            {
                "entry": entry.number,
                "time": entry.time,
                "job": event.job,
                "audit": event.audit,
                "reason": event.reason,
            }
            for entry in audit.entries
            if isinstance(event := entry.event, Frozen)
        ],
        "cleared": [
            {"entry": entry.number, "time": entry.time, "freeze": event.entry, "reason": event.reason}
            for entry in audit.entries
            if isinstance(event := entry.event, Unfrozen)
        ],
        "clock": [
            {"entry": entry.number, "time": entry.time, "before": event.before}
            for entry in audit.entries
            if isinstance(event := entry.event, ClockSet)
        ],
    }


def print_ledger(audit: LedgerAudit) -> None:
    """An audited ledger for people: fits 80 columns."""
    console, budget = plain_console(), audit.budget
    entries = format_count(len(audit.entries), "entry", "entries")
    console.print(
        f"[green]✓[/green] [bold]{shown(audit.site)}[/bold]: {entries}, every signature and total holds"
    )
    console.print(f"  key {audit.public_key[:_HASH]}…, last entry {audit.head[:_HASH]}…")
    console.print(
        f"  each example's budget: ε = {budget.epsilon:g} at δ = {format_delta(budget.delta)}, "
        f"filter of order α = {budget.order}\n"
    )
    datasets = plain_table("data set", "examples", "ε lost", "ε left")
    for dataset in audit.datasets:
        lost = dataset.epsilon
        left = "none" if lost is None else format_left(budget.epsilon - lost)
        datasets.add_row(
            f"{dataset.number} ({dataset.fingerprint[:8]}…)",
            str(dataset.examples),
            format_epsilon(lost),
            left,
        )
    console.print(datasets if audit.datasets else "No data set is registered.")
    if audit.plans:
        plans = plain_table("run", "data set", "σ", "rate", "steps", "charges", "ε", "ε again")
        for plan in audit.plans:
            plans.add_row(*_plan_cells(plan))
        console.print()
        console.print(plans)
        console.print("\n  [dim]ε: of the whole plan, as written down; again: by a second accountant[/dim]")
    decisions = [entry for entry in audit.entries if _decision(entry)]
    if decisions:
        console.print()
    for entry in decisions:
        console.print(f"  {utc_minute(entry.time)} {shown(_decision(entry))}")
    if audit.frozen is not None:
        console.print(
            f"\n[red]Frozen:[/red] by entry {audit.frozen}, since an audit refuted what runs here claim; "
            "nothing is\nspent until the custodian has cleared that: confide site unfreeze"
        )
    if audit.refused_enough:
        console.print(
            "\n[yellow]Caution:[/yellow] so many runs were refused that later refusals are in agent.log "
            "alone,\nuntil a plan begins here or a run is approved."
        )
    if any(plan.keyed for plan in audit.plans):
        console.print(
            "\n[yellow]Caution:[/yellow] noise that is keyed can be taken away again: such a run protects\n"
            "nobody, and ε is what fresh noise would have cost."
        )
    if not audit.complete:
        console.print(
            "\n[yellow]Caution:[/yellow] without ledger.head beside it, nobody can tell whether\n"
            "entries were cut off at the end."
        )


def _decision(entry: Entry) -> str:
    """What the custodian or the policy decided by an entry; empty for the others."""
    event = entry.event
    if isinstance(event, Refused):
        return f"refused run {event.run} by {event.rule}"
    if isinstance(event, Approved):
        return f"approved run {event.run}"
    if isinstance(event, Closed):
        return f"closed run {event.run}"
    if isinstance(event, ClockSet):
        apart = entry.time - event.before
        side = "behind" if apart < 0 else "ahead of"
        return f"accepted the clock, {in_days(abs(apart))} {side} the entry before"
    if isinstance(event, Frozen | Unfrozen):
        return _about_freeze(event)
    return f"the budget became ε = {event.epsilon:g}" if isinstance(event, Rebudgeted) else ""


def _about_freeze(event: Frozen | Unfrozen) -> str:
    if isinstance(event, Frozen):
        return f"frozen by an audit of job {event.job}: {event.reason}"
    return f"cleared the freeze of entry {event.entry}: {event.reason}"


def run_table(audit: RunAudit) -> dict[str, Any]:
    """An audited run as JSON shows it."""
    return {
        "ok": True,
        "run": audit.run,
        "manifest": audit.manifest,
        "rounds": audit.rounds,
        "epsilon": audit.epsilon if _private(audit) else None,
        "delta": audit.delta if _private(audit) else None,
        "metrics_epsilon": audit.metrics,
        "phases": [
            {"name": phase.name, "first_round": phase.first_round, "last_round": phase.last_round}
            for phase in audit.phases
        ],
        "sites": [
            {
                "site": site.site,
                "taken": site.taken,
                "planned": site.planned,
                "epsilon": site.epsilon,
                "recomputed": site.recomputed,
                "charged_rounds": site.charged,
            }
            for site in audit.sites
        ],
    }


def print_run(audit: RunAudit) -> None:
    """An audited run for people."""
    console, name = plain_console(), f"[bold]{shown(audit.run)}[/bold]"
    if not audit.sites:
        console.print(f"{name}: no round is finished, so there is nothing to check yet")
        return
    console.print(f"[green]✓[/green] {name}: {format_count(audit.rounds, 'round')}, every receipt holds")
    promise = f"ε = {audit.epsilon:g} at δ = {format_delta(audit.delta)} for the run"
    console.print(
        f"  manifest {audit.manifest[:_HASH]}…, {promise if _private(audit) else 'without noise'}"
    )
    for phase in audit.phases:
        rounds = f"rounds {phase.first_round} to {phase.last_round}"
        steps = format_count(phase.training.local_steps, "step")
        console.print(f"  {shown(phase.name)}: {rounds}, of {steps} each")
    if audit.metrics is not None:
        console.print(f"  and ε = {audit.metrics:g} for the metrics after it")
    console.print()
    table = plain_table("site", "steps", "ε", "ε again", "ledger")
    for site in audit.sites:
        again = format_epsilon(site.recomputed)
        table.add_row(
            shown(site.site),
            f"{site.taken} of {site.planned}",
            format_epsilon(site.epsilon),
            again,
            _told(audit, site),
        )
    console.print(table)
    if any(site.charged is None for site in audit.sites):
        console.print(
            "\n[yellow]Caution:[/yellow] without its ledger (--ledger), receipts are only a site's word."
        )


def _private(audit: RunAudit) -> bool:
    return all(site.epsilon is not None for site in audit.sites)


def _told(audit: RunAudit, site: AuditedSite) -> str:
    if site.charged is None:
        return "not given"
    again = site.charged - audit.rounds
    return (
        "agrees"
        if again <= 0 or site.epsilon is None
        else f"agrees; {format_count(again, 'round')} paid for and lost"
    )


def _plan_row(plan: AuditedPlan) -> dict[str, Any]:
    return {
        "entry": plan.entry,
        "run": plan.run,
        "purpose": plan.purpose,
        "dataset": plan.dataset,
        "mechanism": plan.plan.mechanism.name,
        "multiplier": plan.plan.mechanism.multiplier,
        "sampling_rate": plan.plan.sampling_rate,
        "phases": [
            {
                "multiplier": phase.mechanism.multiplier,
                "sampling_rate": phase.sampling_rate,
                "steps": phase.steps,
            }
            for phase in phases_of(plan.plan)
        ],
        "bands": plan.plan.bands if isinstance(plan.plan, BandedPlan) else 1,
        "steps": plan.plan.steps,
        "taken": plan.taken,
        "charges": plan.charges,
        "closed": plan.closed,
        "keyed": plan.keyed,
        "delta": plan.plan.delta,
        "epsilon": plan.epsilon,
        "recomputed": plan.recomputed,
    }


def _plan_cells(plan: AuditedPlan) -> tuple[str, ...]:
    parts = phases_of(plan.plan) or (plan.plan,)
    marks = [plan.purpose] * (plan.purpose != "training") + ["closed"] * plan.closed
    return (
        shown(", ".join([plan.run, *marks])),
        str(plan.dataset),
        ", ".join(dict.fromkeys(f"{one.mechanism.multiplier:.3g}" for one in parts)),
        ", ".join(dict.fromkeys(f"{one.sampling_rate:.3g}" for one in parts)),
        f"{plan.taken}/{plan.plan.steps}",
        str(plan.charges),
        format_epsilon(plan.epsilon),
        format_epsilon(plan.recomputed),
    )
