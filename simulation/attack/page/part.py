"""One attack's part of an audit's page: words first, then charts and tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulation.attack.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One inline SVG element, with a caption over it."""

    caption: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; the first of a row says what it is of. Columns are ``words``, or else numbers."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is told of one ``finding``; ``seats`` are those that its attackers sat in, by name.

    ``attempts`` are how many bounds on ε it tried to show. ``key`` is what the page's top says of it: a
    title, a number and a remark. ``note`` explains the charts. ``found`` and ``limits`` are sentences.
    """

    finding: Finding
    title: str
    seats: tuple[str, ...]
    attempts: int
    key: tuple[str, str, str]
    tried: tuple[str, ...]
    found: tuple[str, ...]
    charts: tuple[Chart, ...]
    note: str
    tables: tuple[Table, ...]
    limits: tuple[str, ...] = field(default=())
