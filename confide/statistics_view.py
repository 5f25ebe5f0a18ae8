"""What ``confide stats`` shows: each number beside what noise may do to it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from confide.console import plain_console, plain_table, print_json, shown
from runs.formats import format_count, format_delta, format_epsilon, format_percent

if TYPE_CHECKING:
    from rich.table import Table

    from runs.estimates import Estimate, Quantile
    from runs.statistics_folder import StatisticsRun
    from runs.told_statistics import NoisyHistogram, Statistics

_SHOWN = (0.05, 0.5, 0.95)  # quantiles


def print_statistics_json(run: StatisticsRun) -> None:
    """One JSON object and nothing else."""
    print_json({"folder": str(run.folder)} | run.statistics.as_table())


def print_statistics(run: StatisticsRun) -> None:
    """Counts, quantiles and what they suggest for a job, for people: fits 80 columns."""
    console, told = plain_console(), run.statistics
    console.print(
        f"{format_count(len(told.spent), 'site')} counted at ε = {format_epsilon(told.epsilon)} and "
        f"δ = {format_delta(told.delta)} in all, which each one's ledger has.\n"
        f"[bold]{_pair(told.examples)}[/bold] examples.\n"
        f"± is one standard deviation of the noise alone: {_number(told.histograms[0].std)} in a bin.\n"
        "In brackets is where a quantile may lie, with 95 % confidence."
    )
    for table in _tables(told):
        console.print()
        console.print(table)
    if told.unclear:
        console.print(
            f"\nNoise hides whether any example has the label {', '.join(map(shown, told.unclear))}:\n"
            "no weights of labels are suggested."
        )
    _print_suggested(told)
    console.print(f"\nrun {shown(str(run.folder))}")


def _tables(told: Statistics) -> list[Table]:
    """One for labels, one for lengths and columns of numbers, one for each of categories."""
    found = []
    for labels in told.of("labels").values():
        table = plain_table("label", "examples", "share")
        for name, count in labels.by_name.items():
            table.add_row(shown(name), _pair(count), _share(told, count))
        found.append(table)
    spreads = [("tokens", one) for one in told.of("lengths").values()]
    spreads += list(told.of("numbers").items())
    if spreads:
        headings = [format_percent(share).replace(".0 %", " %") for share in _SHOWN]
        table = plain_table("", "mean", *headings, "missing")
        for name, one in spreads:
            table.add_row(shown(name), *_spread(told, one))
        found.append(table)
    for column, one in told.of("categories").items():
        table = plain_table(shown(column), "examples", "share")
        kept = [(shown(name), count) for name, count in one.by_name.items()]
        ends = [("another", one.other), ("missing", one.missing)]
        for name, count in [*kept, *((end, count) for end, count in ends if count is not None)]:
            table.add_row(name, _pair(count), _share(told, count))
        found.append(table)
    return found


def _spread(told: Statistics, one: NoisyHistogram) -> list[str]:
    at = {quantile.share: quantile for quantile in one.quantiles}
    quantiles = [_quantile(at[share]) if share in at else "hidden" for share in _SHOWN]
    return [
        "hidden" if one.mean is None else _pair(one.mean),
        *quantiles,
        "" if one.missing is None else _share(told, one.missing),
    ]


def _quantile(one: Quantile) -> str:
    """The value, and from where to where it may be."""
    value = f"{one.value:.3g}" if abs(one.value) < 1e3 else _end(one.value)
    return f"{value if math.isfinite(one.value) else '?'} ({_end(one.low)}–{_end(one.high)})"


def _end(value: float) -> str:
    return _number(value) if math.isfinite(value) else "?"


def _print_suggested(told: Statistics) -> None:
    """What a job may write, in the words of a job file."""
    console, suggested = plain_console(), told.suggested
    if not suggested:
        return
    console.print("\n[bold]Suggested[/bold], from the noisy numbers alone:")
    if "data.max_length" in suggested:
        console.print(f"  data.max_length = {suggested['data.max_length']}   # 95 % of the texts are whole")
    for name, (low, high) in suggested.get("data.numbers", {}).items():
        key = shown(json.dumps(name, ensure_ascii=False))
        console.print(f"  data.numbers.{key} = \\[{_number(low)}, {_number(high)}]")
    if "class_weights" in suggested:
        weights = (f"{shown(name)} {weight:.2f}" for name, weight in suggested["class_weights"].items())
        console.print(f"  weights that make labels even: {', '.join(weights)}")


def _share(told: Statistics, count: Estimate) -> str:
    share = told.share(count)
    if share is None:
        return "hidden"
    return f"{format_percent(share.value)} ± {format_percent(share.std)}"


def _pair(estimate: Estimate) -> str:
    """A value to the digits that its noise leaves it: 1203 ± 14, 34.2 ± 0.6."""
    digits = max(0, 1 - math.floor(math.log10(estimate.std))) if estimate.std > 0 else 0
    digits = 0 if estimate.std >= 10 else digits
    return f"{estimate.value:,.{digits}f} ± {estimate.std:,.{digits}f}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
