"""A chart's figure: its style, its axes and labels, and its way out as one inline SVG element.

It is drawn by matplotlib without pyplot, so nothing global changes, and comes out the same each
time. Its text stays text: it takes the page's font, can be searched and read aloud.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# Okabe and Ito's hues, told apart by colour-blind readers; darkened to 4.5:1 or more on white.
BLUE, ORANGE, GREEN, PURPLE = "#0067a5", "#b34700", "#00765a", "#9a3b76"
PALE_BLUE, GREY, INK = "#9ccbe8", "#5a6572", "#1d2733"
LABEL_GAP = 0.1  # of the chart's height, between two labels beside it

_STYLE: Mapping[RcKeyType, Any] = {
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
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a site's name may hold a dollar sign
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.labelcolor": GREY,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}


@contextmanager
def new_figure() -> Iterator[tuple[Figure, Axes]]:
    """A figure with one chart in it, in the report's style while the block lasts."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Defaults first: a reader's own matplotlibrc must not change the report.
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's font may have it
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        yield figure, figure.add_subplot()


def to_svg(figure: Figure, name: str, said: str) -> str:
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


def round_axis(axes: Axes, rounds: Sequence[int], *, room: float = 0.3) -> None:
    """Scale the horizontal axis to round numbers, with ``room`` rounds to spare beside them."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlim(min(rounds) - (room if min(rounds) else 0.0), max(rounds) + room)
    axes.set_xlabel("round")


def label_line(
    axes: Axes, y: float, text: str, color: str, *, at: Literal["left", "right"], above: bool
) -> None:
    """Label a level line at height ``y``, above or below it, at the chart's left or right edge."""
    axes.annotate(
        text,
        xy=(0.0 if at == "left" else 1.0, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4 if at == "left" else -2, 3 if above else -4),
        textcoords="offset points",
        va="bottom" if above else "top",
        ha=at,
        color=color,
    )


def label_ends(axes: Axes, labels: Iterable[tuple[float, str, str]]) -> None:
    """Labels right of the chart at their values' heights, moved apart where they would touch."""

    def to_share(value: float) -> float:
        to_axes = axes.transData + axes.transAxes.inverted()
        return float(to_axes.transform((1.0, value))[1])

    axes.get_ylim()  # settles the limits, which wait for being asked
    ordered = sorted((to_share(value), text, color) for value, text, color in labels)
    heights: list[float] = []
    for share, _, _ in ordered:
        heights.append(max(share, heights[-1] + LABEL_GAP) if heights else share)
    over = max(0.0, heights[-1] - 1.0) if heights else 0.0
    for height, (_, text, color) in zip(heights, ordered, strict=True):
        axes.text(1.015, height - over, text, transform=axes.transAxes, color=color, va="center")
