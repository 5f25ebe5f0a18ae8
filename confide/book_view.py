"""What ``confide audit ledger`` shows of a book, which has the ledgers of many sites."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confide.console import plain_console, plain_table, shown
from runs.formats import format_epsilon

if TYPE_CHECKING:
    from privacy.ledger.book_audit import BookAudit

_ROWS = 20


def book_table(audit: BookAudit) -> dict[str, Any]:
    """An audited book as JSON shows it."""
    return {"ok": not audit.broken, **asdict(audit)}


def print_book(audit: BookAudit, path: Path) -> None:
    """An audited book for people: fits 80 columns."""
    console, name = plain_console(), f"[bold]{shown(str(path))}[/bold]"
    if audit.broken:
        console.print(
            f"[red]✗[/red] {name}: {len(audit.broken):,} of {audit.sites:,} ledgers do not hold\n"
        )
        table = plain_table("site", "what is wrong", left=2)
        for broken in audit.broken[:_ROWS]:
            table.add_row(shown(broken.site), shown(broken.reason))
        if len(audit.broken) > _ROWS:
            table.add_row(f"and {len(audit.broken) - _ROWS:,} more", "")
        console.print(table, soft_wrap=False)
        console.print("\nThe others:")
    else:
        console.print(f"[green]✓[/green] {name}: every signature and total holds")
    console.print(
        f"  {audit.sites - len(audit.broken):,} sites, {audit.entries:,} entries, {audit.charges:,} charges"
    )
    if audit.largest is not None:
        largest = audit.largest
        console.print(
            f"  the most that an example has lost: ε = {format_epsilon(largest.epsilon)} of "
            f"{largest.budget:g}, at {shown(largest.site)}"
        )
