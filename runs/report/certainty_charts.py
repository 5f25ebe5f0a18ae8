"""The report's charts of how sure a model is: one inline SVG element out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runs.formats import format_percent
from runs.report.figures import BLUE, GREY, ORANGE, new_figure, to_svg
from tasks.certainty import Certainty

if TYPE_CHECKING:
    from matplotlib.axis import Axis

    from runs.assessment import RegionMap

_LOOKS = ((BLUE, "-", "o"), (ORANGE, "--", "s"))


def reliability_chart(curves: Mapping[str, Certainty]) -> str:
    """Confidence against the share of right answers, a point a bin, labelled by the mapping's keys.

    Where probabilities are what they say, points lie on the diagonal; under it a model is too sure.
    """
    with new_figure() as (figure, axes):
        axes.grid(visible=True, axis="both")
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, label="calibrated")
        for (title, found), (color, dashes, marker) in zip(curves.items(), _LOOKS, strict=False):
            confidence, right = (
                [getattr(one, key) for one in found.bins] for key in ("confidence", "right")
            )
            axes.plot(confidence, right, color=color, linestyle=dashes, marker=marker, label=title)
        low = min(min(one.confidence, one.right) for found in curves.values() for one in found.bins)
        axes.set_xlim(max(0.0, low - 0.05), 1.01)
        axes.set_ylim(max(0.0, low - 0.05), 1.01)
        axes.set_xlabel("confidence")
        axes.set_ylabel("right answers")
        _in_percent(axes.xaxis, axes.yaxis)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
        off = ", ".join(
            f"{title} is off by {format_percent(found.calibration_error)}"
            for title, found in curves.items()
        )
        return to_svg(figure, "reliability", f"Share of right answers by confidence: {off} on average")


def selective_chart(curves: Mapping[str, Certainty]) -> str:
    """Errors among the surest answers, by how large a share of the answers these are."""
    with new_figure() as (figure, axes):
        for (title, found), (color, dashes, marker) in zip(curves.items(), _LOOKS, strict=False):
            shares, errors = zip(*found.surest, strict=True)
            axes.plot(shares, errors, color=color, linestyle=dashes, marker=marker, label=title)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, None)
        axes.set_xlabel("share of the answers, the surest first")
        axes.set_ylabel("wrong")
        _in_percent(axes.xaxis, axes.yaxis)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
        ends = ", ".join(
            f"{title} {format_percent(found.surest[4][1])} of the surest half and "
            f"{format_percent(found.errors)} of all"
            for title, found in curves.items()
        )
        return to_svg(figure, "selective", f"Wrong answers among the surest: {ends}")


def map_chart(maps: Sequence[RegionMap]) -> str:
    """A row a held-out case: its mask, what it was answered, and how unsure the answer is."""
    titles = ("mask", "answer", "uncertainty")
    most = max(1, *(int(part.max()) for one in maps for part in (one.mask, one.answer)))
    with new_figure() as (figure, axes):
        axes.remove()
        figure.set_size_inches(4.6, 1.6 * len(maps))
        grid = figure.subplots(len(maps), len(titles), squeeze=False)
        for one, row in zip(maps, grid, strict=True):
            looks = (("viridis", most), ("viridis", most), ("magma", 255))
            for place, part, (colors, top) in zip(row, one.parts.values(), looks, strict=True):
                place.imshow(part, cmap=colors, vmin=0, vmax=top, interpolation="nearest")
                place.set_axis_off()
        for place, title in zip(grid[0], titles, strict=True):
            place.set_title(title, fontsize=9)
        return to_svg(figure, "maps", f"Masks, answers and uncertainty of {len(maps)} held-out cases")


def _in_percent(*axes: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
