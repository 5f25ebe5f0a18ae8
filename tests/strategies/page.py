"""The table of docs/strategies.md, from what each strategy declares."""

from __future__ import annotations

import re

from protocol.job.strategy_facts import StrategyFacts

BEGIN, END = "<!-- table: python tools/strategies_page.py -->", "<!-- end of the table -->"
_HEADINGS = (
    "name",
    "what it does",
    "trains and sends",
    "linear: works from a sum",
    "exact: averages B·A",
    "compression",
    "correlated noise",
    "server optimizer",
    "other ranks at other sites",
    "keeps some at the site",
    "vectors a round",
)


def render(text: str, facts: list[StrategyFacts]) -> str:
    """The page with its table made anew. Raises ValueError for a page without the table's marks."""
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|{'---|' * len(_HEADINGS)}", *map(_row, facts)]
    made, count = re.subn(
        f"{re.escape(BEGIN)}\n.*?{re.escape(END)}",
        lambda _: "\n".join([BEGIN, *lines, END]),
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"expected {BEGIN} and {END} once, got {count} tables")
    return made


def _row(one: StrategyFacts) -> str:
    cells = (
        f"`{one.name}`",
        one.about,
        "; then ".join(", ".join(parts) for parts in one.trains),
        _word(one.linear),
        _word(one.exact),
        _word(one.compression),
        _word(one.correlated_noise),
        _word(one.server_optimizer),
        _word(one.ranks_differ),
        _word(one.keeps_local),
        str(one.messages),
    )
    return f"| {' | '.join(cells)} |"


def _word(yes: bool) -> str:
    return "yes" if yes else "no"
