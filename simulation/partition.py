"""Dealing one data set out: a held-out part for the coordinator, the rest to simulated sites."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import DataError
from protocol.job.data_section import DEFAULT_HOLDOUT
from protocol.job.job import ByColumn, Dirichlet, Job
from protocol.plain_text import LONGEST_NAME, some
from tasks.data.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Row numbers: ``held_out``, none if these have a file of their own, and each site's by its name.

    Of a mix, ``sources`` says how many of a site's rows are of each source, which lie one after another.
    """

    held_out: NDArray[np.int64]
    sites: dict[str, NDArray[np.int64]]
    sources: dict[str, tuple[int, ...]] = field(default_factory=dict)


def partition(
    job: Job, table: Rows, *, groups: Sequence[str] = (), counts: Sequence[int] = ()
) -> Partition:
    """Split by ``data.holdout`` and ``federation.partition``, drawn by ``seeds.data``.

    With ``data.validation`` nothing is held out of the source.

    ``groups`` has the values of the column that the partition names, if it names one; of a mix, ``counts``
    has how many rows each source has.
    Equal contents stay on one side of the held-out split: a retweet in training would otherwise be
    tested on. Raises DataError if the held-out part or a site is left without examples.
    """
    if len(set(table.contents)) == 1 and len(table) > 1:
        raise DataError(
            f"all {len(table)} examples are the same: there is nothing to learn and to hold out"
        )
    generator = np.random.Generator(np.random.PCG64(job.seeds.data))
    rows = np.arange(len(table))
    if job.data.limit is not None:
        rows = np.sort(generator.permutation(rows)[: job.data.limit])
    share = 0.0 if job.data.validation_source is not None else job.data.holdout or DEFAULT_HOLDOUT
    held_out, rest = _hold_out(rows, table.contents, share, generator)
    rest = generator.permutation(rest)
    kind = job.federation.partition
    if isinstance(kind, ByColumn):
        sites = _by_column(rest, groups)
    else:
        if isinstance(kind, Dirichlet):
            deal = _by_equal_dirichlet if kind.equal_sizes else _by_dirichlet
            parts = deal(
                rest, [label or "" for label in table.labels or ()], kind.dirichlet, job, generator
            )
        else:
            parts = np.array_split(rest, job.federation.sites)
        sites = {f"site-{number}": part for number, part in enumerate(parts, start=1)}
    empty = [name for name, part in sites.items() if not len(part)]
    if empty or (share and not len(held_out)):
        who = some(empty) or "the held-out part"
        raise DataError(
            f"{who} got no examples out of {len(rows)}: lower federation.sites, raise data.limit, or "
            "choose another federation.partition"
        )
    found = Partition(held_out=held_out, sites=sites)
    return _by_source(found, job, counts) if job.data.mix else found


def _by_source(parts: Partition, job: Job, counts: Sequence[int]) -> Partition:
    """Each site's rows in order of the sources that they are of, which have so many rows each.

    Raises DataError for a site that has none of a source.
    """
    of_row = np.repeat(np.arange(len(counts)), counts)
    sites = {name: rows[np.argsort(of_row[rows], kind="stable")] for name, rows in parts.sites.items()}
    sources = {}
    for name, rows in sites.items():
        own = np.bincount(of_row[rows], minlength=len(counts))
        if not own.all():
            raise DataError(
                f"data.mix: {name} got no examples of {job.data.aliases[int(own.argmin())]!r}: lower "
                "federation.sites, or raise data.limit"
            )
        sources[name] = tuple(map(int, own))
    return replace(parts, sites=sites, sources=sources)


def _hold_out(
    rows: NDArray[np.int64],
    contents: Sequence[Any],
    share: float,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    distinct = sorted({contents[row] for row in rows})
    count = max(1, round(share * len(distinct))) if share else 0
    chosen = {distinct[i] for i in generator.permutation(len(distinct))[:count]}
    held = np.array([contents[row] in chosen for row in rows], bool)
    return rows[held], rows[~held]


def _by_dirichlet(
    rows: NDArray[np.int64],
    labels: Sequence[str],
    alpha: float,
    job: Job,
    generator: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Each label's rows are cut by shares drawn from Dirichlet(α) (Yurochkin et al. 2019)."""
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(job.federation.sites)]
    for label in sorted({labels[row] for row in rows}):
        members = np.array([row for row in rows if labels[row] == label], np.int64)
        shares = generator.dirichlet(np.full(len(parts), alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return [generator.permutation(np.concatenate(part)) for part in parts]


def _by_equal_dirichlet(
    rows: NDArray[np.int64],
    labels: Sequence[str],
    alpha: float,
    job: Job,
    generator: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Each site in turn draws its labels' shares from Dirichlet(α), and rows by them (Hsu et al. 2019).

    What it draws is gone. It draws no more of a label that has run out, and the last site has what is left.
    """
    names = sorted({labels[row] for row in rows})
    waiting = [np.array([row for row in rows if labels[row] == name], np.int64) for name in names]
    left = np.array([len(members) for members in waiting])
    parts = []
    for size in map(len, np.array_split(rows, job.federation.sites)):
        shares, taken = generator.dirichlet(np.full(len(names), alpha)), np.zeros_like(left)
        while missing := size - taken.sum():
            # Where a site's own labels have all run out, it takes whatever there is.
            weights = np.where(taken < left, np.maximum(shares, 1e-12), 0.0)
            drawn = generator.multinomial(missing, weights / weights.sum())
            taken = np.minimum(taken + drawn, left)
        piece = [members[:count] for members, count in zip(waiting, taken, strict=True)]
        waiting = [members[count:] for members, count in zip(waiting, taken, strict=True)]
        left = left - taken
        parts.append(generator.permutation(np.concatenate(piece)))
    return parts


def _by_column(rows: NDArray[np.int64], groups: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """A site a value. A site's name becomes a folder's, so values are reduced to plain characters."""
    sites: dict[str, NDArray[np.int64]] = {}
    for group in sorted({groups[row] for row in rows}):
        name = re.sub(r"[^\w-]+", "_", group.strip())[:LONGEST_NAME]
        if name in sites:
            raise DataError(
                f"federation.partition.column: two of its values would both name the site {name!r}, one is "
                f"{group!r}; rename it in the data"
            )
        sites[name] = np.array([row for row in rows if groups[row] == group], np.int64)
    return sites
