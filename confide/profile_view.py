"""What ``confide simulate --profile`` shows: where the time of a run went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from confide.console import plain_console, plain_table
from protocol.processes.time_spent import Part
from runs.formats import format_percent

if TYPE_CHECKING:
    from rich.table import Table

    from protocol.processes.time_spent import Lap


def profile_table(laps: Sequence[Lap]) -> list[dict[str, Any]]:
    """Laps as JSON shows them: all parts of each, in seconds."""
    return [{"lap": lap.name, "seconds": lap.seconds, "parts": _all_parts(lap)} for lap in laps]


def _all_parts(lap: Lap) -> dict[str, float]:
    return {part.value: lap.parts.get(part, 0.0) for part in Part}


def print_profile(laps: Sequence[Lap]) -> None:
    """Seconds by part, for people: fits 80 columns. Rounds after the first are shown by their mean.

    Nothing for a run that was not profiled.
    """
    if not laps:
        return
    console = plain_console()
    console.print()
    console.print(_table(laps))


def _table(laps: Sequence[Lap]) -> Table:
    rounds = [lap for lap in laps if lap.name.startswith("round")]
    columns = {"start": _named(laps, "start"), "first round": rounds[:1]}
    if len(rounds) > 1:
        columns["later rounds, each"] = rounds[1:]
    columns["end"] = _named(laps, "end")
    table = plain_table("seconds", *columns, "of rounds")
    whole = sum(lap.seconds for lap in rounds)
    for part in Part:
        means = [_mean(some, part) for some in columns.values()]
        if any(seconds >= 0.005 for seconds in means):
            share = sum(lap.parts.get(part, 0.0) for lap in rounds) / whole if whole else 0.0
            table.add_row(part.value, *(f"{seconds:.2f}" for seconds in means), format_percent(share))
    table.add_section()
    totals = [sum(lap.seconds for lap in some) / max(1, len(some)) for some in columns.values()]
    table.add_row("[bold]together[/bold]", *(f"[bold]{seconds:.2f}[/bold]" for seconds in totals), "")
    return table


def _named(laps: Sequence[Lap], name: str) -> list[Lap]:
    return [lap for lap in laps if lap.name == name]


def _mean(laps: Sequence[Lap], part: Part) -> float:
    return sum(lap.parts.get(part, 0.0) for lap in laps) / max(1, len(laps))
