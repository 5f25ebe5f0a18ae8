"""The job's ``[statistics]``: what is counted of the sites' data before a job, and in which public bins."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from protocol.job.section import Section
from protocol.plain_text import Word

if TYPE_CHECKING:
    from protocol.job.job import Job

STATISTICS_ROUND = 1  # what has one release is its own one round
MOST_BINS = 1000  # of a histogram, apart from those at its ends
_MOST_COLUMNS = 1000
_Edge = Annotated[float, Field(ge=-1e30, le=1e30)]


class Bins(Section):
    """A histogram's public bins: their ``edges``, or a ``range`` that is cut into equal ``bins``.

    A bin goes from its edge up to the next one, without it. What lies below the first or from the last on
    has a bin of its own.
    """

    edges: Annotated[list[_Edge], Field(min_length=2, max_length=MOST_BINS + 1)] | None = None
    range: Annotated[list[_Edge], Field(min_length=2, max_length=2)] | None = None
    bins: Annotated[int, Field(ge=1, le=MOST_BINS)] = 20

    @model_validator(mode="after")
    def _ascending(self) -> Bins:
        if (self.edges is None) == (self.range is None):
            raise ValueError(
                "expected either edges, or a range and a number of bins: they are public, and no data may "
                "be what chooses them"
            )
        if self.edges is not None and self.bins != type(self).model_fields["bins"].default:
            raise ValueError("bins: expected none beside edges, which say how many there are")
        cuts = self.cuts
        if any(low >= high for low, high in pairwise(cuts)):
            named = "edges" if self.edges is not None else "range"
            raise ValueError(f"{named}: expected each above the one before, got {self.edges or self.range}")
        return self

    @property
    def cuts(self) -> tuple[float, ...]:
        """All edges, in order.

        >>> Bins(range=[0, 10], bins=4).cuts
        (0.0, 2.5, 5.0, 7.5, 10.0)
        """
        if self.range is None:
            return tuple(map(float, self.edges or ()))
        low, high = map(float, self.range)
        inner = (low + (high - low) * place / self.bins for place in range(1, self.bins))
        return (low, *inner, high)


class StatisticsSection(Section):
    """What ``confide stats`` asks of sites: a histogram each, all of them in one release of ``epsilon``.

    Of an example each histogram counts one thing. δ is ``privacy.delta``.
    """

    epsilon: Annotated[float, Field(ge=1e-6, le=100)]
    labels: bool = Field(False, description="how many examples have each label")
    lengths: Bins | None = Field(None, description="how long examples are, in tokens")
    numbers: dict[Word, Bins] = Field(
        default_factory=dict, max_length=_MOST_COLUMNS, description="by column, how its numbers spread"
    )
    categories: Annotated[list[Word], Field(max_length=_MOST_COLUMNS)] = Field(
        default_factory=list, description="columns whose declared categories are counted"
    )

    @model_validator(mode="after")
    def _something(self) -> StatisticsSection:
        if not self.histograms:
            raise ValueError("expected something to count: labels, lengths, numbers or categories")
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("categories: expected each column once")
        return self

    @property
    def histograms(self) -> int:
        """How many histograms an example is counted in: at most so many counts change with it."""
        return self.labels + (self.lengths is not None) + len(self.numbers) + len(self.categories)


def check_statistics(job: Job) -> None:
    """Raises ValueError for statistics that the job's other sections do not go with."""
    if job.statistics is None:
        return
    if job.privacy.hides_sites:
        raise ValueError(
            'statistics: expected none with privacy.unit="site": a site\'s counts hide its examples, and '
            "not the site"
        )
    if job.privacy.unit == "group":
        raise ValueError(
            'statistics: expected none with privacy.unit="group": each row is counted, and a person with '
            "many rows would be in a count as often"
        )
    if job.aggregation.kind == "homomorphic":
        raise ValueError(
            'statistics: expected aggregation.kind="masks" or "none": ciphertexts are of updates alone'
        )
