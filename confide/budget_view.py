"""What ``confide budget`` shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from confide.console import plain_console, plain_table, print_json, printable, shown
from runs.formats import format_delta, format_epsilon, format_left

if TYPE_CHECKING:
    from rich.table import Table

    from client.budgets import BudgetLeft
    from protocol.job.job import Job

# Data sets of many sites that are shown.
_ROWS = 12


def print_budgets_json(budgets: Sequence[BudgetLeft], job: Job | None) -> None:
    """One JSON object and nothing else."""
    print_json({"job": None if job is None else job.name, "datasets": [asdict(item) for item in budgets]})


def print_budgets(budgets: Sequence[BudgetLeft], job: Job | None) -> None:
    """What each data set has left, and what the job would cost it, for people: fits 80 columns."""
    console = plain_console()
    if not budgets:
        console.print("No data set is registered here yet: all of the policy's budget is left.")
        return
    first, sites = budgets[0], len({item.site for item in budgets})
    whose = shown(first.site) if sites == 1 else f"{sites:,} sites"
    console.print(
        f"[bold]{whose}[/bold]: each example may lose ε = {first.epsilon:g} at "
        f"δ = {format_delta(first.delta)}, over all runs\n"
    )
    # Where there are many sites, those with the least left are shown.
    some = budgets if sites == 1 else sorted(budgets, key=_left)[:_ROWS]
    console.print(_table(some, job, many=sites > 1))
    for site in sorted({item.site for item in budgets if item.frozen})[:_ROWS]:
        console.print(
            f"\n[red]Frozen:[/red] an audit refuted what runs at {shown(site)} claim; nothing is spent "
            "there\nuntil its custodian has cleared that: confide site unfreeze"
        )
    if len(budgets) > len(some):
        console.print(f"and {len(budgets) - len(some):,} data sets more, with as much left or more")
    refusing = sum(item.refusal is not None for item in budgets)
    if sites > 1 and refusing:
        console.print(f"\n{refusing:,} of {len(budgets):,} data sets refuse the job; of those shown:")
    for item in some:
        if item.refusal is not None:
            whose = f"{printable(item.site)}, data set" if sites > 1 else "Data set"
            refusal = f"\n{whose} {item.dataset} refuses the job: {printable(item.refusal)}"
            console.print(refusal, markup=False, soft_wrap=False)


def _table(budgets: Sequence[BudgetLeft], job: Job | None, *, many: bool) -> Table:
    headings = ["site"] * many + ["data set", "examples", "ε lost", "ε left"]
    table = plain_table(*headings, *([] if job is None else ["ε lost after the job"]))
    for item in budgets:
        left = "none" if item.spent is None else format_left(_left(item))
        cells = [shown(item.site)] * many
        cells += [str(item.dataset), str(item.examples), format_epsilon(item.spent), left]
        if job is not None:
            cells.append("refused" if item.after is None else format_epsilon(item.after))
        table.add_row(*cells)
    return table


def _left(item: BudgetLeft) -> float:
    return -math.inf if item.spent is None else item.epsilon - item.spent
