"""Metrics: how an adapter does on the sites' own examples, each site's count under its own noise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from privacy.errors import RunError
from privacy.mechanisms.counting import LEAST, MOST, ONE


@dataclass(frozen=True, kw_only=True)
class SiteMetrics:
    """One site: how much was ``right`` among its ``examples``.

    ``right`` is a sum over examples in units of 2^-30, with integer Laplace noise of scale 2^30/ε, so it
    may lie below zero or above ``examples``. Raises ValueError for what no site can have counted.
    """

    right: int
    examples: int

    def __post_init__(self) -> None:
        # A float would be a sum in other units.
        whole = type(self.right) is int and LEAST <= self.right <= MOST
        if not whole or not 1 <= self.examples <= MOST // ONE:
            raise ValueError(
                f"expected an int64 sum over 1 to {MOST // ONE} examples, got right={self.right}, "
                f"examples={self.examples}"
            )

    @classmethod
    def of(cls, sites: Iterable[SiteMetrics]) -> SiteMetrics:
        """Several sites' counts as one. Raises ValueError where there is none."""
        told = list(sites)
        return cls(right=sum(site.right for site in told), examples=sum(site.examples for site in told))

    @property
    def mean(self) -> float:
        """The share of right answers, in [0, 1]."""
        return _share(self.right, self.examples)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What sites counted together, each released at ``epsilon``.

    ``total`` is over all of ``told_by``; ``sites`` has each one's own count, by name, where that is known:
    under masks it is not. ``personal`` is the count of all for adapters of their own, if they have any: a
    site released both for ``epsilon`` then, with twice the noise in each. ``spent`` is the ε of a site's
    whole training then, by name: the steps that made its own adapter come after the last round.
    """

    epsilon: float
    total: SiteMetrics
    told_by: tuple[str, ...]
    sites: Mapping[str, SiteMetrics] = field(default_factory=dict)
    personal: SiteMetrics | None = None
    spent: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def told(
        cls, epsilon: float, sites: Mapping[str, SiteMetrics], *, personal: SiteMetrics | None = None
    ) -> Metrics:
        """Metrics of sites whose counts are known one by one. Raises ValueError where there is none."""
        return cls(
            epsilon=epsilon,
            total=SiteMetrics.of(sites.values()),
            told_by=tuple(sorted(sites)),
            sites=sites,
            personal=personal,
        )

    @property
    def mean(self) -> float:
        """The share of right answers over all sites' examples, in [0, 1]."""
        return self.total.mean

    @property
    def examples(self) -> int:
        return self.total.examples

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise in the mean over all sites, before it is cut to [0, 1]."""
        # A Laplace variable of scale b has variance 2b², on integers 1/6 less at most.
        scale = (1 if self.personal is None else 2) / self.epsilon
        return math.sqrt(2 * len(self.told_by)) * scale / self.examples

    @property
    def content(self) -> bytes:
        """JSON: what was released, and the means that follow from it."""
        table = {
            "epsilon": self.epsilon,
            **_table(self.total),
            "told_by": list(self.told_by),
            "sites": {name: _table(site) for name, site in self.sites.items()},
        }
        if self.personal is not None:
            table["personal"] = _table(self.personal) | {"spent": dict(self.spent)}
        return json.dumps(table, indent=1).encode()


def read_metrics(content: bytes) -> Metrics:
    """Read what ``Metrics.content`` wrote; the means are worked out again. Raises RunError if it cannot."""
    try:
        table = json.loads(content)
        sites = {name: _read(kept) for name, kept in table["sites"].items()}
        own = table.get("personal")
        metrics = Metrics(
            epsilon=float(table["epsilon"]),
            total=_read(table),
            told_by=tuple(map(str, table["told_by"])),
            sites=sites,
            personal=None if own is None else _read(own),
            spent={} if own is None else _read_spent(own.get("spent", {})),
        )
        added = Metrics.told(metrics.epsilon, sites, personal=metrics.personal) if sites else metrics
        if (added.total, added.told_by) != (metrics.total, metrics.told_by):
            raise ValueError("its sites do not add up to its total")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"metrics.json cannot be read: {error!r}") from error
    return metrics


def _table(site: SiteMetrics) -> dict[str, float]:
    return {"mean": site.mean, "right": site.right, "examples": site.examples}


def _read(table: Mapping[str, Any]) -> SiteMetrics:
    return SiteMetrics(right=table["right"], examples=int(table["examples"]))


def _read_spent(table: Mapping[str, Any]) -> dict[str, float | None]:
    return {str(name): None if value is None else float(value) for name, value in table.items()}


def _share(right: int, examples: int) -> float:
    # What noise carried out of the range of shares is cut off: that uses nothing but what was released.
    return min(1.0, max(0.0, right / (examples * ONE)))
