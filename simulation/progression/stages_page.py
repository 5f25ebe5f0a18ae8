"""A short page on stages: what each has cost, what all have together, and where their reports are."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from protocol.plain_text import escaped
from runs.formats import format_delta, format_epsilon

if TYPE_CHECKING:
    from simulation.progression.progression import Spent

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ padding: .2rem 1rem .2rem 0; text-align: left }}
</style>
<h1>{name}</h1>
<p>{total}</p>
<table>
<tr><th>stage</th><th>task</th><th>ε alone</th><th></th></tr>
{rows}
</table>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class StageSpent:
    """A stage that has a run, and the largest ε that it has cost a site by itself; None without noise."""

    name: str
    task: str
    run: str
    epsilon: float | None


def render_stages(name: str, spent: Spent) -> str:
    """The page, as HTML."""
    rows = "\n".join(
        f"<tr><td>{_shown(one.name)}</td><td>{_shown(one.task)}</td><td>{format_epsilon(one.epsilon)}</td>"
        f'<td><a href="{quote(one.run)}/report.html">report</a></td></tr>'
        for one in spent.stages
    )
    return _PAGE.format(name=_shown(name), total=escape(describe_total(spent)), rows=rows)


def describe_total(spent: Spent) -> str:
    """What a unit that is in all stages has lost, in a sentence."""
    if spent.highest is None:
        return "Without privacy: no stage has noise."
    return (
        f"A unit that is in each of these stages has lost ε = {format_epsilon(spent.highest)} of "
        f"{spent.epsilon:g} at δ = {format_delta(spent.delta)}, by the exact composition of all steps."
    )


def _shown(text: str) -> str:
    return escape(escaped(text))
