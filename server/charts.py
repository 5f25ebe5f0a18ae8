"""The report's charts: finished rounds in, one inline SVG element out.

Every chart is drawn by matplotlib without pyplot, so nothing global changes, and comes out the same
each time. Its text stays text: it takes the page's font, can be searched and read aloud.
"""

from __future__ import annotations

import io
import math
import re
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

from server.run_folder import RoundRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Measure = Literal["loss", "accuracy", "perplexity"]

# Okabe and Ito's hues, told apart by colour-blind readers; darkened to 4.5:1 or more on white.
_BLUE, _ORANGE, _GREEN = "#0067a5", "#b34700", "#00765a"
_PALE_BLUE, _GREY, _GRID, _INK = "#9ccbe8", "#5a6572", "#e4e7eb", "#1d2733"
_CURVES = ((_BLUE, "-", "o"), (_ORANGE, "--", "s"), (_GREEN, "-.", "^"))

_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "confide",
    "font.size": 9,
    "axes.edgecolor": "#b8bfc8",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "text.parse_math": False,  # a site's name may hold a dollar sign
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "axes.labelcolor": _GREY,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}

_SITES_DRAWN = 12  # above this, ε is a range and its median
_MARKED_ROUNDS = 30
_SEPARATE_COLUMNS = 60
_LABEL_GAP = 0.1  # of the chart's height, between two labels beside it


def measure(record: RoundRecord, name: Measure) -> float:
    """One held-out number of a round; perplexity is exp(loss) a token."""
    if name == "perplexity":
        return math.exp(min(record.loss, 700.0))
    return record.accuracy if name == "accuracy" else record.loss


def format_measure(record: RoundRecord, name: Measure) -> str:
    """A round's held-out number for people: a percentage, nats, or a perplexity."""
    value = measure(record, name)
    if name == "accuracy":
        return f"{100 * value:.1f} %"
    return f"{value:.3f}" if value < 10 else f"{value:,.1f}" if value < 1e6 else f"{value:.3g}"


def measure_chart(records: Sequence[RoundRecord], name: Measure, *, majority: float | None = None) -> str:
    """One held-out measure by round; ``majority`` draws the accuracy of a constant answer."""
    first, last = format_measure(records[0], name), format_measure(records[-1], name)
    said = f"Held-out {name} by round, from {first} to {last}"
    with _figure() as (figure, axes):
        values = _draw_curve(axes, records, name, _CURVES[0])
        _round_axis(axes, [record.round for record in records])
        _scale(axes, name, values)
        if majority is not None:
            said += f"; the most frequent label alone gives {majority:.1%}"
            _draw_majority(axes, majority, below=statistics.fmean(values) >= majority)
        _draw_end_labels(axes, [(values[-1], last, _BLUE)])
        return _svg(figure, name, said)


def comparison_chart(curves: Mapping[str, Sequence[RoundRecord]], name: Measure) -> str:
    """The same measure of up to three runs, labelled by the mapping's keys."""
    ends = [f"{title} ends at {format_measure(records[-1], name)}" for title, records in curves.items()]
    with _figure() as (figure, axes):
        labels, everything = [], []
        for (title, records), look in zip(curves.items(), _CURVES, strict=False):
            values = _draw_curve(axes, records, name, look)
            labels.append((values[-1], title.lower(), look[0]))
            everything += values
        _round_axis(axes, [record.round for records in curves.values() for record in records])
        _scale(axes, name, everything)
        _draw_end_labels(axes, labels)
        return _svg(figure, "comparison", f"Held-out {name} by round: {', '.join(ends)}")


def epsilon_chart(records: Sequence[RoundRecord], *, budget: float) -> str:
    """ε by round against the budget: a line a site, or range and median above twelve sites.

    Sites whose ε is None have no bound and are not drawn.
    """
    rounds = [0, *(record.round for record in records)]
    names = [name for name, spent in records[-1].epsilon.items() if spent is not None]
    spent = {name: [0.0, *(r.epsilon.get(name) or 0.0 for r in records)] for name in names}
    highest = max((values[-1] for values in spent.values()), default=0.0)
    with _figure() as (figure, axes):
        axes.axhline(budget, color=_ORANGE, linestyle="--", linewidth=1.4)
        axes.set_ylim(0, 1.12 * max(budget, highest))
        _beside(axes, 0.0, budget, f"budget {budget:g}", _ORANGE, above=True)
        if len(names) > _SITES_DRAWN:
            steps = list(zip(*spent.values(), strict=True))
            low, high = [min(step) for step in steps], [max(step) for step in steps]
            axes.fill_between(rounds, low, high, color=_PALE_BLUE, alpha=0.6, linewidth=0)
            middle = [statistics.median(step) for step in steps]
            axes.plot(rounds, middle, color=_BLUE)
            _draw_end_labels(axes, [(middle[-1], "median", _BLUE)])
        else:
            for values in spent.values():
                axes.plot(rounds, values, color=_BLUE, linewidth=1.4, alpha=0.75)
            ends = {name: values[-1] for name, values in spent.items()}
            _draw_end_labels(axes, _clusters(ends, apart=_LABEL_GAP * axes.get_ylim()[1]))
        _round_axis(axes, rounds)
        said = f"ε by round: the highest of {len(names)} sites reaches {highest:.2f} of {budget:g}"
        return _svg(figure, "epsilon", said)


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


def byte_unit(largest: float) -> tuple[float, str]:
    """The decimal unit that suits a number of bytes, with its size in bytes."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"))
    return next(((size, name) for size, name in units if largest >= size), (1.0, "B"))


@contextmanager
def _figure() -> Iterator[tuple[Figure, Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Defaults first: a reader's own matplotlibrc must not change the report.
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's font may have it
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Figure, name: str, said: str) -> str:
    """The figure as an element to inline: no prolog, no namespaces, ids of its own, a title."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    head, inner = buffer.getvalue().partition("<svg")[2].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    # matplotlib's style rule would reach all of the page; the page's own sheet holds it instead.
    inner = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", inner, count=1, flags=re.DOTALL)
    inner = re.sub(r' id="', f' id="{name}-', inner)
    inner = re.sub(r'xlink:href="#', f'href="#{name}-', inner).replace("url(#", f"url(#{name}-")
    opening = f'<svg {box[0] if box else ""} role="img" aria-labelledby="{name}-title">'
    return f'{opening}<title id="{name}-title">{escape(said)}</title>{inner.strip()}'


def _draw_curve(
    axes: Axes, records: Sequence[RoundRecord], name: Measure, look: tuple[str, str, str]
) -> list[float]:
    color, dashes, marker = look
    rounds, values = [r.round for r in records], [measure(r, name) for r in records]
    shape = marker if len(records) <= _MARKED_ROUNDS else "none"
    axes.plot(rounds, values, color=color, linestyle=dashes, marker=shape)
    return values


def _scale(axes: Axes, name: Measure, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if name == "perplexity" and max(values) > 10 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
        return
    axes.margins(y=0.15)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    if name == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %"))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))


def _draw_majority(axes: Axes, majority: float, *, below: bool) -> None:
    low, high = axes.get_ylim()
    room = 0.14 * (max(high, majority) - min(low, majority))  # for its words
    axes.set_ylim(min(low, majority - room * below), max(high, majority + room * (not below)))
    axes.axhline(majority, color=_GREY, linestyle=(0, (2, 2)), linewidth=1.2)
    _beside(axes, 1.0, majority, "most frequent label", _GREY, above=not below)


def _beside(axes: Axes, x: float, y: float, text: str, color: str, *, above: bool) -> None:
    axes.annotate(
        text,
        xy=(x, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4 if x == 0.0 else -2, 3 if above else -4),
        textcoords="offset points",
        va="bottom" if above else "top",
        ha="left" if x == 0.0 else "right",
        color=color,
    )


def _draw_end_labels(axes: Axes, labels: Iterable[tuple[float, str, str]]) -> None:
    """Labels right of the chart at their values' heights, moved apart where they would touch."""
    to_share: Callable[[float], float] = lambda value: float(  # noqa: E731
        (axes.transData + axes.transAxes.inverted()).transform((1.0, value))[1]
    )
    axes.get_ylim()  # settles the limits, which wait for being asked
    ordered = sorted((to_share(value), text, color) for value, text, color in labels)
    heights: list[float] = []
    for share, _, _ in ordered:
        heights.append(max(share, heights[-1] + _LABEL_GAP) if heights else share)
    over = max(0.0, heights[-1] - 1.0) if heights else 0.0
    for height, (_, text, color) in zip(heights, ordered, strict=True):
        axes.text(1.015, height - over, text, transform=axes.transAxes, color=color, va="center")


def _clusters(ends: Mapping[str, float], *, apart: float) -> list[tuple[float, str, str]]:
    """One label for sites whose lines end too close together to be told apart."""
    groups: list[list[str]] = []
    for name in sorted(ends, key=lambda n: ends[n]):
        if groups and ends[name] - ends[groups[-1][0]] < apart:
            groups[-1].append(name)
        else:
            groups.append([name])
    return [
        (ends[group[-1]], _shorten(group[0]) if len(group) == 1 else f"{len(group)} sites", _BLUE)
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
    with _figure() as (figure, axes):
        for (part, values), color in zip(parts.items(), (_BLUE, _PALE_BLUE), strict=True):
            top = [low + value for low, value in zip(floor, values, strict=True)]
            if len(rounds) > _SEPARATE_COLUMNS:
                edges = [rounds[0] - 0.5, *(number + 0.5 for number in rounds)]
                axes.stairs(top, edges, baseline=floor, fill=True, color=color, label=part)
            else:
                axes.bar(rounds, values, bottom=floor, color=color, width=0.72, label=part)
            floor = top
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} {unit}" if y else "0"))
        _round_axis(axes, rounds, room=0.5)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=1, fontsize=9)
        return _svg(figure, name, said)


def _round_axis(axes: Axes, rounds: Sequence[int], *, room: float = 0.3) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlim(min(rounds) - (room if min(rounds) else 0.0), max(rounds) + room)
    axes.set_xlabel("round")
