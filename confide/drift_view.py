"""What ``confide audit drift`` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from confide.console import plain_console, plain_table, shown
from runs.formats import format_count, format_percent

if TYPE_CHECKING:
    from runs.drift import Drift

_ROWS = 20


def drift_table(drift: Drift) -> dict[str, Any]:
    """All of it as JSON shows it, every part with its shift."""
    parts = [asdict(part) | {"shift": part.shift} for part in drift.parts]
    return asdict(drift) | {"losses": list(drift.losses), "parts": parts}


def print_drift(drift: Drift) -> None:
    """What importance shifted most to and from, for people: fits 80 columns."""
    console = plain_console()
    examples = format_count(drift.examples, "example")
    console.print(f"[bold]{shown(drift.first)}[/bold] and [bold]{shown(drift.second)}[/bold] on {examples}")
    changed = "" if drift.changed is None else f", other answers to {drift.changed}"
    console.print(f"  loss {drift.losses[0]:.4f} and {drift.losses[1]:.4f}{changed}")
    console.print(f"  they go by the same to {format_percent(drift.agreement)}\n")
    table = plain_table("token or column", "examples", "before", "after", "shift")
    for part in drift.parts[:_ROWS]:
        table.add_row(
            shown(part.part),
            str(part.examples),
            format_percent(part.before),
            format_percent(part.after),
            f"{100 * part.shift:+.1f}",
        )
    console.print(table)
    if len(drift.parts) > _ROWS:
        console.print(f"and {len(drift.parts) - _ROWS:,} that moved less")
    console.print(
        "\n  [dim]before, after: the mean share of all that counts in an example that has it[/dim]"
    )
