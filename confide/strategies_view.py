"""What ``confide strategies`` shows."""

from __future__ import annotations

from dataclasses import asdict

from confide.console import plain_console, plain_table, print_json, shown
from protocol.job.strategy import strategy_names
from protocol.job.strategy_facts import StrategyFacts, strategy_facts
from protocol.plain_text import escaped

_PROMISES = ("linear", "exact")


def print_strategies(*, json: bool) -> None:
    """Every strategy that can be named here: what it trains, promises and goes with."""
    found = [strategy_facts(name) for name in strategy_names()]
    if json:
        print_json([asdict(one) for one in found])
        return
    table = plain_table("name", "trains", "linear", "exact", "goes with", "keys", left=6)
    for one in found:
        promises = ["yes" if getattr(one, promise) else "no" for promise in _PROMISES]
        trained = ", then ".join(" ".join(parts) for parts in one.trains)
        keys = ", ".join(map(shown, one.keys))
        table.add_row(shown(one.name), trained, *promises, ", ".join(goes_with(one)), keys)
    plain_console().print(table, soft_wrap=False)
    # Not in a column: that would be too narrow for an identifier.
    print("\nPublished in")
    width = max(len(escaped(one.name)) for one in found)
    for one in found:
        print(f"  {escaped(one.name):{width}}  {escaped(one.paper)}")


def goes_with(one: StrategyFacts) -> list[str]:
    """What a job may have beside the strategy, in a word each."""
    may = {
        "sums": one.linear,
        "compression": one.compression,
        "server optimizer": one.server_optimizer,
        "correlated noise": one.correlated_noise,
        "other ranks": one.ranks_differ,
    }
    return [what for what, yes in may.items() if yes]
