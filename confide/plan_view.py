"""What ``confide plan`` shows: a table of the sites, then its noise, what it costs and what would help."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.markup import escape

from confide.console import shown
from runs.formats import format_bytes, format_count, format_delta, format_epsilon, format_seconds
from simulation.forecast.noise_level import HIGH, HOPELESS, format_ratio

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from client.budgets import BudgetLeft
    from simulation.forecast.forecast import Forecast, SiteForecast
    from simulation.forecast.phase_forecast import PhaseForecast

_ROWS = 12
_COLOURS = {"low": "green", "high": "yellow", "hopeless": "red"}


def print_json(forecast: Forecast) -> None:
    """One JSON object and nothing else."""
    print(json.dumps(forecast.as_table(), allow_nan=False))


def print_forecast(forecast: Forecast, console: Console) -> None:
    """The forecast for people: fits 80 columns."""
    console.print(_title(forecast), highlight=False)
    console.print()
    console.print(_site_table(forecast.sites, unit=forecast.job.privacy.sampled_unit))
    for table in _sections(forecast):
        console.print()
        console.print(table)
    # Sites of one size have the same cautions.
    for caution in dict.fromkeys(text for site in forecast.sites for text in site.cautions):
        console.print(f"\n[yellow]Caution:[/yellow] {shown(caution)}", highlight=False)
    for remark in forecast.remarks:
        console.print(f"\n[bold]Note:[/bold] {shown(remark)}", highlight=False)


def _title(forecast: Forecast) -> str:
    job = forecast.job
    rounds = format_count(job.training.rounds, "round")
    steps = format_count(job.training.local_steps, "step")
    how = f"of {steps}, batch {job.training.batch_size}"
    if job.phase:
        how = f"in {format_count(len(job.phase), 'phase')}"
    promise = f"ε = {job.privacy.epsilon:g} at δ = {format_delta(job.privacy.delta)}"
    if not job.privacy.protects:
        promise = "without privacy"
    return (
        f"[bold]{shown(job.name)}[/bold]: {format_count(len(forecast.sites), 'site')}, {rounds} "
        f"{how}, {promise}"
    )


def _site_table(sites: Sequence[SiteForecast], *, unit: str) -> Table:
    from rich.table import Table

    laplace = any(site.epsilon["pld"] is not None and site.epsilon["prv"] is None for site in sites)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("site", overflow="ellipsis", no_wrap=True)
    for heading in (f"{unit}s", "rate", "steps", "σ", "noise std", "ε PLD", "ε RDP", "ε PRV"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = list(_rows(sites))
    # The sites with the fewest examples have the most noise: where not all fit, those are shown.
    visible = rows if len(rows) <= _ROWS else sorted(rows, key=lambda row: row[1].examples)[: _ROWS - 1]
    for name, site in visible:
        table.add_row(shown(name), *_figures(site))
    if len(visible) < len(rows):
        table.add_row(f"[dim]and {len(rows) - len(visible)} larger[/dim]")
    if laplace:
        table.caption, table.caption_justify = "ε PRV: none for Laplace", "left"
    return table


def _rows(sites: Sequence[SiteForecast]) -> Iterator[tuple[str, SiteForecast]]:
    """A row a site; where there are many, neighbours of one size share one: their figures are the same."""
    if len(sites) <= _ROWS:
        yield from ((site.name, site) for site in sites)
        return
    for _, group in groupby(sites, key=lambda site: site.examples):
        same = list(group)
        yield same[0].name if len(same) == 1 else f"{same[0].name} to {same[-1].name}", same[0]


def _figures(site: SiteForecast) -> tuple[str, ...]:
    return (
        f"{site.examples:,}",
        f"{site.sampling_rate:.2g}",
        str(site.steps),
        f"{site.noise_multiplier:.3g}",
        f"{site.noise_std:.3g}",
        *(_epsilon(site.epsilon[name]) for name in ("pld", "rdp", "prv")),
    )


def _epsilon(value: float | None) -> str:
    return "none" if value is None else format_epsilon(value)


def _sections(forecast: Forecast) -> Iterator[Table]:
    if forecast.phases:
        yield _phases(forecast.phases)
    yield _noise(forecast)
    yield _costs(forecast)
    if forecast.budgets is not None:
        yield _budgets(forecast.budgets)
    if forecast.noise.verdict != "low":
        yield _suggestions(forecast)


def _phases(phases: Sequence[PhaseForecast]) -> Table:
    """A row a phase; where sites differ, figures are of the one with the most noise."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("phase", overflow="ellipsis", no_wrap=True)
    for heading in ("rounds", "steps", "trains", "numbers", "batch", "rate η", "σ", "ε alone", "noise"):
        table.add_column(heading, justify="right", no_wrap=True)
    for phase in phases:
        table.add_row(
            shown(phase.name),
            str(phase.rounds),
            str(phase.steps),
            phase.train,
            f"{phase.parameters:,}",
            str(phase.batch_size),
            f"{phase.learning_rate:g}",
            f"{phase.noise_multiplier:.3g}",
            _epsilon(phase.epsilon),
            format_ratio(phase.noise.run),
        )
    return table


def _pairs(title: str) -> Table:
    """Lines of a heading, what it is, and a remark."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False, title=title)
    table.title_justify, table.title_style = "left", "bold"
    return table


def _noise(forecast: Forecast) -> Table:
    noise, sites = forecast.noise, len(forecast.sites)
    steps = forecast.sites[0].steps
    colour = _COLOURS[noise.verdict]
    table = _pairs(f"Noise over the largest possible signal, in {forecast.parameters:,} trained numbers")
    table.add_row("  a step at one site", format_ratio(noise.site_step))
    table.add_row(f"  a step, mean of {format_count(sites, 'site')}", format_ratio(noise.step))
    if forecast.job.privacy.correlated:
        table.add_row("  left of it by correlation", *_correlated(forecast.sites))
    table.add_row(
        f"  the run, {format_count(steps, 'step')}",
        f"[{colour}]{format_ratio(noise.run)}[/{colour}]",
        f"[{colour}]{noise.verdict}[/{colour}] (high above {HIGH:g}, hopeless above {HOPELESS:g})",
    )
    if forecast.fewest_sites is not None:
        table.add_row("  low from", format_count(forecast.fewest_sites, "site"), "as large as these")
    return table


def _correlated(sites: Sequence[SiteForecast]) -> tuple[str, str]:
    """The last adapter's noise over independent noise's, and with how many bands.

    Where sites differ, it is of the one that gains least.
    """
    least = max(sites, key=lambda site: site.noise_ratio)
    bands = sorted({site.bands for site in sites})
    counts = str(bands[0]) if len(bands) == 1 else f"{bands[0]} to {bands[-1]}"
    remark = "1 band, as independent noise, is best" if bands == [1] else f"with {counts} bands"
    return f"{least.noise_ratio:.2f}", remark


def _costs(forecast: Forecast) -> Table:
    traffic, effort = forecast.traffic, forecast.effort
    table = _pairs("Costs (time and memory are estimates)")
    each = f"{format_bytes(traffic.up)} up, {format_bytes(traffic.down)} down a site and round"
    table.add_row("  traffic", f"{format_bytes(traffic.total)} in all: {each}")
    table.add_row("  time", f"about {format_seconds(effort.seconds)}, all sites in turn on this machine")
    disk = f", and {format_bytes(effort.disk_bytes)} of temporary files" if effort.disk_bytes else ""
    table.add_row("  memory", f"about {format_bytes(effort.memory_bytes)}{disk}")
    return table


def _budgets(budgets: Sequence[BudgetLeft]) -> Table:
    table = _pairs("Budgets")
    if not budgets:
        table.add_row("  no data set is in these ledgers yet: all of their budgets is left")
    for left in budgets:
        limit = f"ε = {left.epsilon:g} at δ = {format_delta(left.delta)}"
        if left.after is None:
            answer = f"[red]refused:[/red] {shown(left.refusal or 'no reason given')}"
        else:
            answer = f"{_epsilon(left.spent)} spent, {_epsilon(left.after)} after this job, of {limit}"
        name = f"{left.site}, {left.examples:,} examples (data set {left.dataset})"
        table.add_row(f"  {shown(name)}", answer)
    return table


def _suggestions(forecast: Forecast) -> Table:
    table = _pairs("What would lower the noise of the run")
    for found in forecast.suggestions:
        settings = "\n".join(f"--set {setting}" for setting in found.settings)
        table.add_row(
            f"  {format_ratio(found.before)} → {format_ratio(found.after)}",
            shown(found.text) + (f"\n[dim]{escape(settings)}[/dim]" if settings else ""),
        )
    training = forecast.job.training
    rate = f"training.learning_rate={forecast.noise.bearable(training.learning_rate):.2g}"
    setting = "" if forecast.job.phase else f"\n[dim]--set {rate}[/dim]"
    table.add_row("  as it is", f"a lower learning rate lets less of it in{setting}")
    return table
