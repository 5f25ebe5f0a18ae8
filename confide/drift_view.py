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
    """All of it as JSON shows it, every token with its shift."""
    tokens = [asdict(token) | {"shift": token.shift} for token in drift.tokens]
    return asdict(drift) | {"losses": list(drift.losses), "tokens": tokens}


def print_drift(drift: Drift) -> None:
    """The tokens whose importance shifted most, for people: fits 80 columns."""
    console = plain_console()
    texts = format_count(drift.examples, "text")
    console.print(f"[bold]{shown(drift.first)}[/bold] and [bold]{shown(drift.second)}[/bold] on {texts}")
    changed = "" if drift.changed is None else f", other answers to {drift.changed}"
    console.print(f"  loss {drift.losses[0]:.4f} and {drift.losses[1]:.4f}{changed}")
    console.print(f"  they go by the same tokens to {format_percent(drift.agreement)}\n")
    table = plain_table("token", "texts", "before", "after", "shift")
    for token in drift.tokens[:_ROWS]:
        table.add_row(
            shown(token.token),
            str(token.examples),
            format_percent(token.before),
            format_percent(token.after),
            f"{100 * token.shift:+.1f}",
        )
    console.print(table)
    if len(drift.tokens) > _ROWS:
        console.print(f"and {len(drift.tokens) - _ROWS:,} tokens that moved less")
    console.print(
        "\n  [dim]before, after: a token's share of all that counts in the texts that have it[/dim]"
    )
