"""What ``confide budget`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from confide.console import plain_console, plain_table, print_json, printable, shown
from runs.formats import format_delta, format_epsilon, format_left

if TYPE_CHECKING:
    from client.budgets import BudgetLeft
    from protocol.job.job import Job


def print_budgets_json(budgets: Sequence[BudgetLeft], job: Job | None) -> None:
    """One JSON object and nothing else."""
    print_json({"job": None if job is None else job.name, "datasets": [asdict(item) for item in budgets]})


def print_budgets(budgets: Sequence[BudgetLeft], job: Job | None) -> None:
    """What each data set has left, and what the job would cost it, for people: fits 80 columns."""
    console = plain_console()
    if not budgets:
        console.print("No data set is registered here yet: all of the policy's budget is left.")
        return
    first = budgets[0]
    console.print(
        f"[bold]{shown(first.site)}[/bold]: each example may lose ε = {first.epsilon:g} at "
        f"δ = {format_delta(first.delta)}, over all runs\n"
    )
    headings = ["data set", "examples", "ε lost", "ε left"]
    table = plain_table(*headings, *([] if job is None else ["ε lost after the job"]))
    for item in budgets:
        left = "none" if item.spent is None else format_left(item.epsilon - item.spent)
        cells = [str(item.dataset), str(item.examples), format_epsilon(item.spent), left]
        if job is not None:
            cells.append("refused" if item.after is None else format_epsilon(item.after))
        table.add_row(*cells)
    console.print(table)
    for item in budgets:
        if item.refusal is not None:
            refusal = f"\nData set {item.dataset} refuses the job: {printable(item.refusal)}"
            console.print(refusal, markup=False, soft_wrap=False)
