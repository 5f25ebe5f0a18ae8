"""What ``confide site check`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from confide.console import plain_console, print_json, shown

if TYPE_CHECKING:
    from client.custody.data_check import DataCheck, ModelCheck

_FIRST = 5  # rows that are named


def print_data_checks_json(checks: Sequence[DataCheck]) -> None:
    """One JSON object and nothing else; rows count from 1, as in a file without its header."""
    tables = [asdict(check) for check in checks]
    for table in tables:
        table["near"] = [row + 1 for row in table["near"]]
        for part in (table, *table["models"]):
            part["blank"] = {why: [row + 1 for row in rows] for why, rows in part["blank"].items()}
    print_json({"data": tables})


def print_data_checks(checks: Sequence[DataCheck]) -> None:
    """Each data set in a few lines, for people."""
    console = plain_console()
    for check in checks:
        console.print(f"data.{shown(check.alias)}: {_rows(check.rows)}")
        if check.labels:
            counts = ", ".join(f"{shown(label)} {count}" for label, count in check.labels.items())
            console.print(f"  labels: {counts}")
        if check.repeated:
            console.print(f"  {_rows(check.repeated)} as an earlier one: each is an example of its own")
        if check.near:
            console.print(f"  {_some(check.near)}: nearly an earlier one, and an example of its own")
        _print_blank(check.blank, indent="  ")
        for oddity in check.oddities:
            console.print(f"  [yellow]note[/yellow]: {shown(oddity)}")
        for model in check.models:
            _print_model(model)
    console.print("Blank rows count as examples and contribute nothing. No coordinator hears any of this.")


def _print_model(model: ModelCheck) -> None:
    console = plain_console()
    if model.failure is not None:
        console.print(f"  with {shown(model.model)}: not tried: {shown(model.failure)}")
        return
    least, median, most = model.sizes or (0, 0, 0)
    console.print(f"  with {shown(model.model)}: {least} to {most} {model.unit}, half up to {median}")
    _print_blank(model.blank, indent="    ")


def _print_blank(blank: Mapping[str, tuple[int, ...]], *, indent: str) -> None:
    console = plain_console()
    for why, rows in blank.items():
        console.print(f"{indent}[yellow]blank[/yellow]: {_some(rows)}: {why}")


def _some(rows: Sequence[int]) -> str:
    """How many rows, and which the first are, from 1."""
    first = ", ".join(str(row + 1) for row in rows[:_FIRST])
    more = ", …" if len(rows) > _FIRST else ""
    return f"{_rows(len(rows))} ({first}{more})"


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
