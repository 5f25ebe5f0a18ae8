"""What ``confide strategies`` shows."""

from __future__ import annotations

from typing import Any

from confide.console import plain_console, plain_table, print_json, shown
from protocol.job.strategy import Strategy, find_strategy, strategy_names


def print_strategies(*, json: bool) -> None:
    """Every strategy that can be named here: what it promises, its keys, and where it was published."""
    found = [_describe(name) for name in strategy_names()]
    if json:
        print_json(found)
        return
    table = plain_table("name", "linear", "exact", "keys", "paper", left=5)
    for one in found:
        promises = ["yes" if one[promise] else "no" for promise in ("linear", "exact")]
        keys = ", ".join(map(shown, one["keys"]))
        table.add_row(shown(one["name"]), *promises, keys, shown(one["paper"]))
    plain_console().print(table, soft_wrap=False)


def _describe(name: str) -> dict[str, Any]:
    rule = find_strategy(name)
    return {
        "name": name,
        "linear": rule.linear,
        "exact": rule.exact,
        "keys": sorted(rule.model_fields.keys() - Strategy.model_fields.keys()),
        "paper": rule.paper,
    }
