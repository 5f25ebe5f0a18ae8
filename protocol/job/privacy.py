"""The job's ``[privacy]``: what is promised to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from protocol.job.group_keys import check_groups
from protocol.job.noise_correlation import check_correlation
from protocol.job.section import Section

if TYPE_CHECKING:
    from protocol.job.job import Job


class PrivacySection(Section):
    """What is promised to whom."""

    mechanism: Literal["gaussian", "laplace", "skellam", "none"] = "gaussian"
    # A group is all rows of one person, by a column that data.group names.
    unit: Literal["example", "group", "site"] = "example"
    # Who adds what hides a whole site: the sites, in shares, or the coordinator, which then knows the sum.
    noise: Literal["distributed", "central"] = "distributed"
    epsilon: Annotated[float, Field(ge=1e-6, le=100)] = 3.0
    delta: Annotated[float, Field(ge=1e-9, lt=0.5)] = 1e-5
    clipping_norm: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    # So many of the gradients are to be shorter than the norm, which moves to where they are; unset: fixed.
    clipping_quantile: Annotated[float, Field(ge=0.01, le=0.99)] | None = None
    # Whether a step's noise takes some of earlier steps' back: in so many bands, or as many as are best.
    noise_correlation: Literal["none", "banded", "auto"] = "none"
    bands: Annotated[int, Field(ge=1, le=64)] | None = None

    @property
    def correlated(self) -> bool:
        """Whether noise of different steps may depend on one another."""
        return self.noise_correlation != "none"

    @property
    def protects(self) -> bool:
        """Whether there is any noise; clipping stays without it."""
        return self.mechanism != "none"

    @property
    def hides_sites(self) -> bool:
        """Whether one guarantee is for a whole site, and not for one example."""
        return self.unit == "site"

    @property
    def of_groups(self) -> bool:
        """Whether one guarantee is for all rows of a group together."""
        return self.unit == "group"

    @property
    def sampled_unit(self) -> Literal["example", "group"]:
        """What local steps draw, each by itself, and clip: where whole sites are hidden, examples."""
        return "group" if self.of_groups else "example"

    @property
    def in_shares(self) -> bool:
        """Whether what hides a whole site comes from the sites, in shares."""
        return self.hides_sites and self.noise == "distributed"

    @property
    def draws_shares(self) -> bool:
        """Whether the sites draw noise in shares: a run without noise draws none."""
        return self.in_shares and self.protects

    @property
    def norm(self) -> int:
        """The norm that clipping bounds: 1 for Laplace noise, 2 for any other."""
        return 1 if self.mechanism == "laplace" else 2

    @property
    def bound(self) -> float:
        """What one unit adds at most to what noise is added to: in clipping norms, where the norm moves."""
        return self.clipping_norm if self.clipping_quantile is None else 1.0

    @property
    def local_mechanism(self) -> Literal["gaussian", "laplace", "none"]:
        """The noise of a site's local steps: what hides whole sites is added to what a round releases."""
        return "none" if self.hides_sites or self.mechanism == "skellam" else self.mechanism

    def check(self, job: Job) -> None:
        """Raises ValueError for a promise that the job's mechanism, or another section, does not keep."""
        if self.hides_sites:
            self._check_sites(job)
        else:
            self._check_examples(job)
        check_correlation(job)
        check_groups(job)
        if job.metrics.epsilon > 0 and not self.protects:
            raise ValueError(
                'metrics.epsilon: expected 0 with privacy.mechanism="none": noise on metrics protects '
                "nothing once the updates have left without any"
            )

    def _check_examples(self, job: Job) -> None:
        if job.adapter.dropout > 0 and self.protects:
            raise ValueError(
                "adapter.dropout: expected 0 where noise hides an example: masks are drawn along a "
                "batch, so that each example would change those of all after it"
            )
        if self.clipping_quantile is not None and self.mechanism == "laplace":
            raise ValueError(
                'privacy.clipping_quantile: expected none with privacy.mechanism="laplace", whose noise is '
                'for lengths in L1, which a count beside gradients would take too much of: use "gaussian"'
            )
        if self.mechanism == "skellam" or self.noise == "central":
            raise ValueError(
                'privacy.unit: expected "site" with privacy.mechanism="skellam" or '
                'privacy.noise="central": an example is hidden by its own site\'s noise'
            )

    def _check_sites(self, job: Job) -> None:
        wanted = "skellam" if self.in_shares else "gaussian"
        if self.protects and self.mechanism != wanted:
            raise ValueError(
                f'privacy.mechanism: expected "{wanted}" with privacy.unit="site" and privacy.noise='
                f'"{self.noise}", got "{self.mechanism}"'
            )
        if self.clipping_quantile is not None:
            raise ValueError(
                'privacy.clipping_quantile: expected none with privacy.unit="site": steps have no noise of '
                "their own there, so that a count in one would be released without any"
            )
        if job.metrics.epsilon > 0:
            raise ValueError(
                'metrics.epsilon: expected 0 with privacy.unit="site": a site\'s count would be released '
                "beside what hides it"
            )
