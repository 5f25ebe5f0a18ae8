"""An audit's charts: what attackers found in, one inline SVG element out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runs.formats import format_delta, format_lower
from runs.report.figures import BLUE, GREEN, GREY, ORANGE, PALE_BLUE, PURPLE, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axis import Axis

Points = Sequence[tuple[float, float]]

_LOOKS: Sequence[tuple[str, str | tuple[int, tuple[int, ...]]]] = (
    (BLUE, "-"),
    (ORANGE, "--"),
    (GREEN, "-."),
    (PURPLE, (0, (5, 1, 1, 1, 1, 1))),
)
_DRAWN = 200  # points of the promise's edge


def roc_chart(curves: Mapping[str, Points], *, epsilon: float, delta: float, name: str) -> str:
    """ROC curves on log axes, labelled by the mapping's keys, and the area that (ε, δ) rules out.

    An infinite ε rules out nothing. Points are (false positive rate, true positive rate), from (0, 0) to
    (1, 1). The axes begin at the least
    false positive rate that is not 0, one false alarm: left of it nothing was measured. ``name`` begins the
    element's ids.
    """
    low = min((x for curve in curves.values() for x, _ in curve if x > 0), default=0.1)
    low = min(low, 0.1)
    with new_figure() as (figure, axes):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(visible=True, axis="both")
        rates = [low ** (1 - k / _DRAWN) for k in range(_DRAWN + 1)]
        if math.isfinite(epsilon):
            most = [most_found(x, epsilon=epsilon, delta=delta) for x in rates]
            axes.fill_between(
                rates, most, 1.0, color=PALE_BLUE, alpha=0.45, linewidth=0, label="ruled out by ε"
            )
        axes.plot(rates, rates, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, label="guessing")
        for number, (title, curve) in enumerate(curves.items()):
            color, dashes = _LOOKS[number % len(_LOOKS)]
            xs, ys = ([max(low, point[k]) for point in curve] for k in (0, 1))
            axes.plot(xs, ys, color=color, linestyle=dashes, label=title)
        axes.set_xlim(low, 1.0)
        axes.set_ylim(low, 1.0)
        axes.set_xlabel("false alarms: of those that are out")
        axes.set_ylabel("found: of those that are in")
        for axis in (axes.xaxis, axes.yaxis):
            _in_percent(axis)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
        said = f"ROC curves of {', '.join(curves)} on logarithmic axes"
        if math.isfinite(epsilon):
            said += f", and the area that ε = {epsilon:.3g} at δ = {format_delta(delta)} rules out"
        return to_svg(figure, name, said)


def bounds_chart(bounds: Mapping[str, float], *, upper: float, name: str) -> str:
    """Lower bounds on ε as bars, labelled by the mapping's keys, against the ``upper`` one as a line."""
    with new_figure() as (figure, axes):
        titles, values = list(bounds), list(bounds.values())
        places = range(len(values) - 1, -1, -1)  # the first on top
        colors = [ORANGE if value > upper else BLUE for value in values]
        axes.barh(list(places), values, color=colors, height=0.6)
        axes.set_yticks(list(places), titles)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.axvline(upper, color=ORANGE, linestyle="--", linewidth=1.4)
        axes.set_xlim(0.0, 1.15 * max(upper, *values, 0.1))
        axes.set_xlabel(f"ε; the dashed line is the promise, {upper:.3g}")
        said = (
            f"Lower bounds on ε, the largest {format_lower(max(values))}, beside the promise of {upper:.3g}"
        )
        return to_svg(figure, name, said)


def shares_chart(shares: Mapping[str, tuple[float, float]], *, name: str) -> str:
    """Shares from 0 to 1 as bars, labelled by the mapping's keys: what was found, and what chance finds."""
    with new_figure() as (figure, axes):
        places = range(len(shares) - 1, -1, -1)  # the first on top
        for number, (label, color) in enumerate((("found", BLUE), ("by chance", GREY))):
            at = [place + 0.2 - 0.4 * number for place in places]
            values = [100 * both[number] for both in shares.values()]
            axes.barh(at, values, color=color, height=0.36, label=label)
        axes.set_yticks(list(places), list(shares))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlim(0.0, 100.0)
        axes.set_xlabel("%")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
        said = "; ".join(f"{key}: {100 * found:.0f} %" for key, (found, _) in shares.items())
        return to_svg(figure, name, f"What was found of each, beside what chance finds: {said}")


def most_found(rate: float, *, epsilon: float, delta: float) -> float:
    """The highest true positive rate that (ε, δ) allows at a false positive rate.

    Source: Kairouz, Oh and Viswanath 2015, theorem 2.1.
    """
    few = math.exp(min(epsilon, 700.0)) * rate + delta
    many = 1.0 - math.exp(-epsilon) * (1.0 - delta - rate)
    return min(1.0, few, many)


def _in_percent(axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g} %"))
