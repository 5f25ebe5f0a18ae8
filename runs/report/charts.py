"""The report's charts: finished rounds in, one inline SVG element out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runs.comparison import ComparedRow
from runs.formats import byte_unit, format_epsilon, format_measure, format_percent
from runs.report.figures import (
    BLUE,
    GREY,
    INK,
    LABEL_GAP,
    ORANGE,
    PALE_BLUE,
    label_ends,
    label_line,
    new_figure,
    round_axis,
    to_svg,
)
from runs.run_folder import RoundRecord
from runs.spent import last_epsilon
from tasks.measures import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SITES_SHOWN = 12  # above this, sites are summarised: their range and median
_CURVE = (BLUE, "-", "o")
_BARS = {
    "together": BLUE,
    "without privacy": PALE_BLUE,
    "best site alone": ORANGE,
    "mean site alone": ORANGE,
}
_MARKED_ROUNDS = 30
_SEPARATE_COLUMNS = 60


def measure_chart(
    records: Sequence[RoundRecord], measure: Measure, *, majority: float | None = None
) -> str:
    """One held-out measure by round; ``majority`` draws the accuracy of a constant answer."""
    first, last = (format_measure(record.measures, measure) for record in (records[0], records[-1]))
    said = f"Held-out {measure.title} by round, from {first} to {last}"
    with new_figure() as (figure, axes):
        values = _draw_curve(axes, records, measure, _CURVE)
        round_axis(axes, [record.round for record in records])
        _scale(axes, measure, values)
        if majority is not None:
            said += f"; the most frequent label alone gives {format_percent(majority)}"
            _draw_majority(axes, majority, below=statistics.fmean(values) >= majority)
        label_ends(axes, [(values[-1], last, BLUE)])
        return to_svg(figure, measure.name, said)


def comparison_chart(rows: Sequence[ComparedRow], measure: Measure) -> str:
    """A bar for each row of a comparison, its title before it and its number behind."""
    told = [format_measure({measure.name: row.value}, measure) for row in rows]
    with new_figure() as (figure, axes):
        places = range(len(rows), 0, -1)
        colors = [_BARS.get(row.title, GREY) for row in rows]
        bars = axes.barh(places, [row.value for row in rows], color=colors, height=0.64)
        axes.bar_label(bars, labels=told, padding=4)
        axes.set_yticks(places, [row.title for row in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.margins(x=0.2)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.xaxis.set_visible(False)
        said = ", ".join(f"{row.title} {value}" for row, value in zip(rows, told, strict=True))
        return to_svg(figure, "comparison", f"Held-out {measure.title}: {said}")


def epsilon_chart(records: Sequence[RoundRecord], *, budget: float) -> str:
    """ε by round against the budget: a line a site, or their range and median where they are many.

    Sites whose ε is None have no bound and are not drawn.
    """
    rounds = [0, *(record.round for record in records)]
    names = [name for name, last in last_epsilon(records).items() if last is not None]
    spent = {name: [0.0] for name in names}
    for record in records:
        for name, values in spent.items():
            # Who is not in a round has still lost what it had.
            values.append(record.epsilon.get(name) or values[-1])
    highest = max((values[-1] for values in spent.values()), default=0.0)
    with new_figure() as (figure, axes):
        axes.axhline(budget, color=ORANGE, linestyle="--", linewidth=1.4)
        axes.set_ylim(0, 1.12 * max(budget, highest))
        label_line(axes, budget, f"budget {budget:g}", ORANGE, at="left", above=True)
        if len(names) > SITES_SHOWN:
            steps = list(zip(*spent.values(), strict=True))
            low, high = [min(step) for step in steps], [max(step) for step in steps]
            axes.fill_between(rounds, low, high, color=PALE_BLUE, alpha=0.6, linewidth=0)
            middle = [statistics.median(step) for step in steps]
            axes.plot(rounds, middle, color=BLUE)
            label_ends(axes, [(middle[-1], "median", BLUE)])
        else:
            for values in spent.values():
                axes.plot(rounds, values, color=BLUE, linewidth=1.4, alpha=0.75)
            ends = {name: values[-1] for name, values in spent.items()}
            label_ends(axes, _clusters(ends, apart=LABEL_GAP * axes.get_ylim()[1]))
        round_axis(axes, rounds)
        reached = f"{format_epsilon(highest)} of {budget:g}"
        said = f"ε by round: the highest of {len(names)} sites reaches {reached}"
        return to_svg(figure, "epsilon", said)


def bytes_chart(records: Sequence[RoundRecord]) -> str:
    """Bytes from and to all sites together, a column a round."""
    up, down = [r.bytes_up for r in records], [r.bytes_down for r in records]
    factor, unit = byte_unit(max(map(sum, zip(up, down, strict=True))))
    return _columns_chart(
        records,
        {"to the sites": [x / factor for x in down], "from the sites": [x / factor for x in up]},
        unit=unit,
        name="bytes",
        said=f"Bytes by round: {sum(up)} from the sites and {sum(down)} to them in all",
    )


def seconds_chart(records: Sequence[RoundRecord]) -> str:
    """Seconds spent training and on the rest of a round, a column a round."""
    training = [r.training_seconds for r in records]
    rest = [max(0.0, r.seconds - r.training_seconds) for r in records]
    return _columns_chart(
        records,
        {"training": training, "the rest": rest},
        unit="s",
        name="seconds",
        said=f"Seconds by round: {sum(training):.1f} training, {sum(rest):.1f} on the rest in all",
    )


def _draw_curve(
    axes: Axes, records: Sequence[RoundRecord], measure: Measure, look: tuple[str, str, str]
) -> list[float]:
    color, dashes, marker = look
    rounds, values = [r.round for r in records], [r.measures[measure.name] for r in records]
    shape = marker if len(records) <= _MARKED_ROUNDS else "none"
    axes.plot(rounds, values, color=color, linestyle=dashes, marker=shape)
    return values


def _scale(axes: Axes, measure: Measure, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if not measure.share and max(values) > 10 * min(values) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
        return
    axes.margins(y=0.15)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    if measure.share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %"))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))


def _draw_majority(axes: Axes, majority: float, *, below: bool) -> None:
    low, high = axes.get_ylim()
    room = 0.14 * (max(high, majority) - min(low, majority))  # for its words
    axes.set_ylim(min(low, majority - room * below), max(high, majority + room * (not below)))
    axes.axhline(majority, color=GREY, linestyle=(0, (2, 2)), linewidth=1.2)
    label_line(axes, majority, "most frequent label", GREY, at="right", above=not below)


def _clusters(ends: Mapping[str, float], *, apart: float) -> list[tuple[float, str, str]]:
    """One label for sites whose lines end too close together to be told apart."""
    groups: list[list[str]] = []
    for name in sorted(ends, key=lambda n: ends[n]):
        if groups and ends[name] - ends[groups[-1][0]] < apart:
            groups[-1].append(name)
        else:
            groups.append([name])
    return [
        (ends[group[-1]], _shorten(group[0]) if len(group) == 1 else f"{len(group)} sites", BLUE)
        for group in groups
    ]


def _shorten(name: str, length: int = 14) -> str:
    """A name cut to ``length`` characters, the last one an ellipsis."""
    return name if len(name) <= length else name[: length - 1] + "…"


def _columns_chart(
    records: Sequence[RoundRecord],
    parts: Mapping[str, Sequence[float]],
    *,
    unit: str,
    name: str,
    said: str,
) -> str:
    """Two stacked series; above sixty rounds their columns become one outline."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    rounds = [record.round for record in records]
    floor = [0.0] * len(rounds)
    with new_figure() as (figure, axes):
        for (part, values), color in zip(parts.items(), (BLUE, PALE_BLUE), strict=True):
            top = [low + value for low, value in zip(floor, values, strict=True)]
            if len(rounds) > _SEPARATE_COLUMNS:
                edges = [rounds[0] - 0.5, *(number + 0.5 for number in rounds)]
                axes.stairs(top, edges, baseline=floor, fill=True, color=color, label=part)
            else:
                axes.bar(rounds, values, bottom=floor, color=color, width=0.72, label=part)
            floor = top
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} {unit}" if y else "0"))
        round_axis(axes, rounds, room=0.5)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=1, fontsize=9)
        return to_svg(figure, name, said)
