"""``confide strategies``: the rules by which updates become the next adapter."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def strategies(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON list and nothing else.")] = False,
) -> None:
    """List the strategies that a job can name, Confide's own and those that are installed."""
    from json import dumps

    from protocol.job.strategy import find_strategy, strategy_names

    found: list[dict[str, Any]] = [
        {
            "name": name,
            "linear": rule.linear,
            "exact": rule.exact,
            "keys": sorted(rule.model_fields.keys() - {"name"}),
            "paper": rule.paper,
        }
        for name, rule in ((name, find_strategy(name)) for name in strategy_names())
    ]
    if json:
        print(dumps(found, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "linear", "exact", "keys", "paper", box=None, pad_edge=False)
    for one in found:
        holds = ["yes" if one[promise] else "no" for promise in ("linear", "exact")]
        table.add_row(one["name"], *holds, ", ".join(one["keys"]), one["paper"])
    Console(emoji=False, markup=False, highlight=False).print(table)
