"""What a run of statistics tells, and what it suggests for a job: all of it made of noisy counts alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.estimates import Estimate, Quantile, best_of, mean, quantile, share_of, total
from tasks.asked_statistics import Asked

SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_MOST_LENGTHS = 0.95  # of the texts, which a suggested data.max_length leaves whole


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyHistogram:
    """The noisy ``counts``, float64[bins], of what was ``asked``, with noise of ``std`` in each."""

    asked: Asked
    counts: NDArray[np.float64]
    std: float

    @property
    def examples(self) -> Estimate:
        """How many examples it counted: all that are not blank."""
        return total(self.counts, std=self.std)

    @property
    def by_name(self) -> dict[str, Estimate]:
        """The counts of what has a name: labels, or declared categories."""
        return {name: self._count(place) for place, name in enumerate(self.asked.names)}

    @property
    def other(self) -> Estimate | None:
        """How many have a category that is not declared; None for what has none."""
        return self._count(-2) if self.asked.kind == "categories" else None

    @property
    def missing(self) -> Estimate | None:
        """How many have nothing in the column; None for what is no column."""
        return self._count(-1) if self.asked.column else None

    @property
    def spread(self) -> NDArray[np.float64]:
        """The counts of numbers or lengths from below the first edge to beyond the last, none missing."""
        return self.counts[: len(self.asked.cuts) + 1]

    @cached_property
    def quantiles(self) -> tuple[Quantile, ...]:
        """Of numbers or lengths, if enough of them are there to tell."""
        if not self.asked.cuts:
            return ()
        found = [quantile(self.spread, self.asked.cuts, share, std=self.std) for share in SHARES]
        return tuple(one for one in found if one is not None)

    @property
    def mean(self) -> Estimate | None:
        """The mean of numbers or lengths that are cut off at the outer edges; None where noise hides it."""
        return mean(self.spread, self.asked.cuts, std=self.std) if self.asked.cuts else None

    @property
    def range(self) -> tuple[float, float] | None:
        """Edges that leave out 1 % of the numbers at each end at most, or 5 % where noise hides the 1 %.

        Each end is the outer one of its quantile's interval, and so it is far enough with a confidence of
        97.5 %. None where the intervals lie beyond the edges.
        """
        at = {one.share: one for one in self.quantiles}
        for low, high in ((0.01, 0.99), (0.05, 0.95)):
            if at and math.isfinite(at[low].low) and math.isfinite(at[high].high):
                return at[low].low, at[high].high
        return None

    @property
    def longest(self) -> float | None:
        """The edge that 95 % are under at least, with a confidence of 97.5 %; None beyond the edges."""
        high = next((one.high for one in self.quantiles if one.share == _MOST_LENGTHS), math.inf)
        return high if math.isfinite(high) else None

    def _count(self, place: int) -> Estimate:
        return Estimate(value=float(self.counts[place]), std=self.std)


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """What a run's sites counted together, each of them at (``epsilon``, ``delta``).

    ``spent`` is the ε that it cost each site, by name.
    """

    run: str
    epsilon: float
    delta: float
    spent: Mapping[str, float | None]
    histograms: tuple[NoisyHistogram, ...]

    @cached_property
    def examples(self) -> Estimate:
        """How many examples there are that are not blank: the best that all histograms together say."""
        return best_of([one.examples for one in self.histograms])

    def of(self, kind: str) -> dict[str, NoisyHistogram]:
        """The histograms of a kind, by column."""
        return {one.asked.column: one for one in self.histograms if one.asked.kind == kind}

    def share(self, part: Estimate) -> Estimate | None:
        """A count as a share of all examples."""
        return share_of(part, self.examples)

    @cached_property
    def suggested(self) -> dict[str, Any]:
        """Values for a job, as far as they stand out of the noise.

        ``data.max_length`` leaves 95 % of the texts whole, ``data.numbers`` hold most numbers, as
        ``NoisyHistogram.range`` says, and ``class_weights`` are those of losses that weigh all labels the
        same, examples / (labels · examples of the label).
        """
        found: dict[str, Any] = {}
        for lengths in self.of("lengths").values():
            if lengths.longest is not None:
                found["data.max_length"] = math.ceil(lengths.longest)
        ranges = {name: one.range for name, one in self.of("numbers").items()}
        if any(ranges.values()):
            found["data.numbers"] = {name: list(ends) for name, ends in ranges.items() if ends}
        for labels in self.of("labels").values():
            counts = labels.by_name
            if all(count.told for count in counts.values()):
                even = self.examples.value / len(counts)
                found["class_weights"] = {name: even / count.value for name, count in counts.items()}
        return found

    @property
    def unclear(self) -> tuple[str, ...]:
        """Labels of which noise hides whether there are any."""
        return tuple(
            name
            for labels in self.of("labels").values()
            for name, count in labels.by_name.items()
            if not count.told
        )

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it: what is infinite is null."""
        return {
            "run": self.run,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "spent": dict(self.spent),
            "noise_std": self.histograms[0].std,
            "examples": _pair(self.examples),
            "labels": {
                name: _pair(count) | {"share": _pair(self.share(count))}
                for labels in self.of("labels").values()
                for name, count in labels.by_name.items()
            },
            "lengths": next((_spread(one) for one in self.of("lengths").values()), None),
            "numbers": {name: _spread(one) for name, one in self.of("numbers").items()},
            "categories": {name: _named(one) for name, one in self.of("categories").items()},
            "suggested": self.suggested,
        }

    @property
    def content(self) -> bytes:
        """The file's content."""
        return json.dumps(self.as_table(), indent=1, allow_nan=False).encode()


def _pair(estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {"value": None, "std": None}
    return {"value": estimate.value, "std": estimate.std}


def _spread(histogram: NoisyHistogram) -> dict[str, Any]:
    quantiles = [
        {
            "share": one.share,
            "value": _finite(one.value),
            "low": _finite(one.low),
            "high": _finite(one.high),
        }
        for one in histogram.quantiles
    ]
    missing = {} if histogram.missing is None else {"missing": _pair(histogram.missing)}
    return {
        "edges": list(histogram.asked.cuts),
        "counts": histogram.spread.tolist(),
        "mean": _pair(histogram.mean),
        "quantiles": quantiles,
    } | missing


def _named(histogram: NoisyHistogram) -> dict[str, Any]:
    return {
        "counts": {name: _pair(count) for name, count in histogram.by_name.items()},
        "other": _pair(histogram.other),
        "missing": _pair(histogram.missing),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
