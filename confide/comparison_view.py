"""What ``confide simulate --compare`` ends with: what federation gains and what privacy costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confide.console import plain_console, plain_table, shown

if TYPE_CHECKING:
    from rich.table import Table

    from runs.comparison import Comparison

# Above this, each site's own line would hide what all of them come to.
_SITES_SHOWN = 12


def print_comparison(comparison: Comparison | None) -> None:
    """The numbers side by side, then each site alone, for people: fits 80 columns.

    Nothing for a run that was not compared.
    """
    if comparison is None:
        return
    console = plain_console()
    console.print()
    console.print(_runs(comparison))
    if 0 < len(comparison.alone) <= _SITES_SHOWN:
        console.print()
        console.print(_sites(comparison))
    console.print()
    for finding in comparison.findings:
        console.print(finding)


def _runs(comparison: Comparison) -> Table:
    table = plain_table(f"held-out {comparison.measure.title}", "", "ε", "sites")
    table.columns[-1].justify = "left"
    for row in comparison.rows:
        table.add_row(row.title, comparison.told(row.value), row.epsilon, shown(row.who))
    return table


def _sites(comparison: Comparison) -> Table:
    table = plain_table("each site alone", "", "examples", "labels")
    table.columns[-1].justify = "left"
    for one in comparison.alone:
        value = comparison.told(one.last.measures[comparison.measure.name])
        table.add_row(shown(one.site), value, f"{one.examples:,}", shown(one.mix) if one.labels else "–")
    return table
