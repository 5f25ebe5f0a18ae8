"""Metrics: how an adapter does on the sites' own examples, each site's count under its own noise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from privacy.counting import LEAST, MOST, ONE
from privacy.errors import RunError


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

    @property
    def mean(self) -> float:
        """The share of right answers, in [0, 1]."""
        return _share(self.right, self.examples)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Every site's count by name, each released at ``epsilon``."""

    epsilon: float
    sites: Mapping[str, SiteMetrics]

    @property
    def mean(self) -> float:
        """The share of right answers over all sites' examples, in [0, 1]."""
        return _share(sum(site.right for site in self.sites.values()), self.examples)

    @property
    def examples(self) -> int:
        return sum(site.examples for site in self.sites.values())

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise in the mean over all sites, before it is cut to [0, 1]."""
        # A Laplace variable of scale b has variance 2b², on integers 1/6 less at most.
        return math.sqrt(2 * len(self.sites)) / self.epsilon / self.examples

    @property
    def content(self) -> bytes:
        """JSON: what was released, and the means that follow from it."""
        sites = {
            name: {"mean": site.mean, "right": site.right, "examples": site.examples}
            for name, site in self.sites.items()
        }
        table = {"epsilon": self.epsilon, "mean": self.mean, "examples": self.examples, "sites": sites}
        return json.dumps(table, indent=1).encode()


def read_metrics(content: bytes) -> Metrics:
    """Read what ``Metrics.content`` wrote; the means are worked out again. Raises RunError if it cannot."""
    try:
        table = json.loads(content)
        sites = {
            name: SiteMetrics(right=kept["right"], examples=int(kept["examples"]))
            for name, kept in table["sites"].items()
        }
        return Metrics(epsilon=float(table["epsilon"]), sites=sites)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"metrics.json cannot be read: {error!r}") from error


def _share(right: int, examples: int) -> float:
    # What noise carried out of the range of shares is cut off: that uses nothing but what was released.
    return min(1.0, max(0.0, right / (examples * ONE)))
