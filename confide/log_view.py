"""What ``confide audit log`` shows and writes: records as a table, as JSON, or as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from client.custody.processing_log import LogLine, ProcessingLog
from confide.console import plain_console, plain_table, shown
from privacy.durable import write_durably
from privacy.errors import UserError
from protocol.plain_text import escaped
from runs.format_cells import harmless
from runs.formats import format_count, format_epsilon


def log_table(record: ProcessingLog) -> dict[str, Any]:
    """All records as JSON shows them."""
    return {
        "ok": True,
        "site": record.site,
        "public_key": record.public_key,
        "head": record.head,
        "complete": record.complete,
        "records": [asdict(line) for line in record.lines],
    }


def log_csv(record: ProcessingLog) -> str:
    """All records as CSV (RFC 4180), the site first in each line; no cell that a spreadsheet obeys."""
    names = [field.name for field in fields(LogLine)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(["site", *names])
    for line in record.lines:
        values = [record.site, *(getattr(line, name) for name in names)]
        writer.writerow([harmless(value) for value in values])
    return text.getvalue()


def write_log(record: ProcessingLog, to: Path) -> None:
    """Write all records as the file's name asks, for their owner alone. Raises UserError for another."""
    if to.suffix == ".csv":
        content = log_csv(record)
    elif to.suffix == ".json":
        content = json.dumps(log_table(record), indent=1, allow_nan=False) + "\n"
    else:
        raise UserError(f"--to: expected a name that ends in .csv or .json, got {to}")
    write_durably(to, content.encode())


def print_log(record: ProcessingLog) -> None:
    """The records for people: fits 80 columns."""
    console = plain_console()
    records = format_count(len(record.lines), "record")
    console.print(
        f"[green]✓[/green] [bold]{shown(record.site)}[/bold]: {records}, every signature and total holds\n"
    )
    table = plain_table("time (UTC)", "event", "run", "data set", "ε lost", left=3)
    for line in record.lines:
        table.add_row(
            line.time[:16].replace("T", " "),
            _event(line),
            shown(line.run or ""),
            "" if line.data_set is None else str(line.data_set),
            "" if line.data_set is None else format_epsilon(line.epsilon_lost),
        )
    console.print(table, soft_wrap=False)
    if not record.complete:
        console.print(
            "\n[yellow]Caution:[/yellow] without ledger.head beside it, nobody can tell whether\n"
            "entries were cut off at the end."
        )


def _event(line: LogLine) -> str:
    """An event in a word or two: released 3 is the round's."""
    number = "" if line.round is None else f" {line.round}"
    return escaped(f"{line.event}{number}")
