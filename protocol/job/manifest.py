"""The manifest: a job made exact, in one canonical form."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any

from privacy.canonical import canonical_json
from privacy.errors import ProtocolError
from protocol.job.draw import Draw, cohort_size
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from protocol.job.phases import uneven
from protocol.job.section import COHORT_MAX, SITES_MAX
from protocol.plain_text import LONGEST_LABEL, LONGEST_NAME, MOST_LABELS, is_plain, quoted

VERSION = version("confide")
MANIFEST_PURPOSE = "manifest"  # what a coordinator's signature under one is for

# No real job comes near it: the names of a hundred thousand simulated sites are two thirds of it.
MOST_BYTES = 1 << 21
# Sites times rounds: drawing so many takes seconds.
MOST_DRAWN = 2_000_000

# What is planned before a model is there has none yet, and an empty digest.
_HEX = re.compile(r"[0-9a-f]{0,64}")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What every site of a run must agree to. Raises ProtocolError for names that people could not read.

    ``cohort`` is the number of sites in a round. Where these are drawn (``federation.cohort``), ``sites``
    are the names of all that they are drawn from, in order; elsewhere all sites are in each round, and it
    is empty. ``labels`` are in the order of the head's outputs; the digests are SHA-256 as hex.
    ``start_digest`` is that of the first adapter, as it is sent, where it was made elsewhere
    (``training.warm_start``).
    """

    run: str
    job: Job
    cohort: int
    labels: tuple[str, ...]
    model_digest: str
    layout_digest: str
    start_digest: str = ""
    sites: tuple[str, ...] = ()
    version: str = VERSION

    def __post_init__(self) -> None:
        # People read the name on their terminals and in their ledgers.
        if not (isinstance(self.run, str) and _RUN.fullmatch(self.run)):
            raise ProtocolError(
                "expected a run's name of up to 120 letters, digits, dots, dashes and underscores, got "
                f"{quoted(self.run)}"
            )
        if type(self.cohort) is not int or not 1 <= self.cohort <= COHORT_MAX:
            raise ProtocolError(
                f"expected a cohort of 1 to {COHORT_MAX} sites, got {self.cohort!r}: set federation.cohort"
            )
        if isinstance(self.job.adapter.ranks, list):
            raise ProtocolError("adapter.ranks: expected ranks by the sites' names, got a list")
        self._check_sites()
        self._check_weights()
        self._check_labels()
        for digest in (self.model_digest, self.layout_digest, self.start_digest):
            if not (isinstance(digest, str) and _HEX.fullmatch(digest)):
                raise ProtocolError(f"expected SHA-256 as hex, got {quoted(digest)}")
        if self.start_digest and not self.job.begins_elsewhere:
            raise ProtocolError("expected training.warm_start or model.features with start_digest")

    def _check_sites(self) -> None:
        drawn = self.job.federation.cohort
        if drawn is None and not self.sites:
            return
        if not 1 <= len(self.sites) <= SITES_MAX:
            raise ProtocolError(f"expected 1 to {SITES_MAX} sites to draw from, got {len(self.sites)}")
        for site in self.sites:
            if not (isinstance(site, str) and 0 < len(site) <= LONGEST_NAME and is_plain(site)):
                raise ProtocolError(f"expected a site's name, got {quoted(site)}")
        if list(self.sites) != sorted(set(self.sites)):
            raise ProtocolError("expected the sites to draw from in order, each once")
        size = cohort_size(drawn, sites=len(self.sites))
        if self.cohort != size:
            raise ProtocolError(
                f"expected cohort={size} of {len(self.sites)} sites by federation.cohort={drawn}, "
                f"got {self.cohort}"
            )
        if self.job.training.rounds * size > MOST_DRAWN:
            raise ProtocolError(
                f"federation.cohort: expected rounds · cohort <= {MOST_DRAWN}, got "
                f"{self.job.training.rounds} · {size}"
            )

    def _check_weights(self) -> None:
        weights = self.job.federation.weights
        if weights is None:
            return
        unknown = self.sites and sorted(weights.keys() ^ set(self.sites))
        if unknown or len(weights) != self.site_count:
            raise ProtocolError(
                f"federation.weights: expected a weight for each of the run's {self.site_count} sites, and "
                f"for no other, got {len(weights)} of them"
            )

    def _check_labels(self) -> None:
        if len(self.labels) > MOST_LABELS:
            raise ProtocolError(f"expected {MOST_LABELS} labels at most, got {len(self.labels)}")
        for label in self.labels:
            # In a simulation they come from the data, which no job's own check has seen.
            if not (isinstance(label, str) and len(label) <= LONGEST_LABEL and is_plain(label)):
                raise ProtocolError(
                    f"expected labels of up to {LONGEST_LABEL} characters, no control, format or invisible "
                    f"ones among them, got {quoted(label)}"
                )

    @property
    def site_count(self) -> int:
        """The number of sites in the run."""
        return len(self.sites) or self.cohort

    def weight(self, site: str) -> float:
        """How much of a site's update is in a sum: at most 1, which is the heaviest site's.

        Raises ProtocolError for a site that ``federation.weights`` does not name.
        """
        weights = self.job.federation.weights
        if weights is None:
            return 1.0
        if site not in weights:
            raise ProtocolError(f"federation.weights: expected a weight for {quoted(site)}, got none")
        return weights[site] / max(weights.values())

    def drawn(self, number: int) -> frozenset[str] | None:
        """The sites of a round; None where all are in each. Metrics are asked of the last round's."""
        return None if self._draw is None else self._draw.cohort(number)

    def draws(self, site: str, number: int) -> bool:
        """Whether a site is in a round."""
        cohort = self.drawn(number)
        return cohort is None or site in cohort

    def rounds_of(self, site: str) -> int:
        """How many rounds a site is in."""
        return self.job.training.rounds if self._draw is None else self._draw.rounds_of(site)

    def rounds_until(self, site: str, number: int) -> int:
        """How many rounds a site is in up to a round, that one among them."""
        return number if self._draw is None else self._draw.rounds_until(site, number)

    def steps_until(self, site: str, number: int) -> int:
        """The releases of a site up to a round, that one among them: each round's once."""
        if uneven(self.job):  # then all sites are in all rounds
            return sum(self.job.steps_in(one) for one in range(1, number + 1))
        return self.rounds_until(site, number) * self.job.steps_in(1)

    @property
    def most_rounds(self) -> int:
        """How many rounds those sites are in that are drawn most often."""
        return self.job.most_rounds(sites=self.site_count)

    def planned_rounds(self, site: str) -> int:
        """The rounds that a site's plan is for.

        Its own noise hides its examples in just the rounds that it is in. What hides whole sites is the
        same for all of them, and so for those that are drawn most often.
        """
        return self.most_rounds if self.job.privacy.hides_sites else self.rounds_of(site)

    @cached_property
    def _draw(self) -> Draw | None:
        if not self.sites:
            return None
        seed = self.job.seeds.cohort
        return Draw(sites=self.sites, size=self.cohort, rounds=self.job.training.rounds, seed=seed)

    @property
    def min_survivors(self) -> int:
        """How many sites' updates make a round at least: all that are drawn, if the job does not say."""
        return min(self.job.federation.min_sites or self.cohort, self.cohort)

    @property
    def threshold(self) -> int:
        """How many sites it takes to uncover a sum: two thirds of all and more, unless the job says."""
        return self.job.aggregation.threshold or 2 * self.cohort // 3 + 1

    @cached_property
    def content(self) -> bytes:
        """Canonical JSON: keys in order, no spaces, UTF-8. Raises ProtocolError beyond ``MOST_BYTES``."""
        table = asdict(self) | {"job": self.job.model_dump(mode="json")}
        content = canonical_json(table)
        _check_length(content)
        return content

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical content: 32 bytes."""
        return hashlib.sha256(self.content).digest()


def _check_length(content: bytes) -> None:
    if len(content) > MOST_BYTES:
        raise ProtocolError(f"expected a manifest of {MOST_BYTES} bytes at most, got {len(content)}")


# A process reads the one of its run again and again, be it for thousands of simulated sites.
@lru_cache(maxsize=4)
def read_manifest(content: bytes) -> Manifest:
    """Parse a manifest. Raises ProtocolError if it is too long, not canonical or of another version."""
    _check_length(content)
    try:
        table: dict[str, Any] = json.loads(content)
        version = table["version"]
        if version != VERSION:
            raise ProtocolError(f"the manifest is of Confide {quoted(version)}, this is {VERSION}: use one")
        manifest = Manifest(
            run=table["run"],
            job=parse_job(table["job"]),
            cohort=table["cohort"],
            labels=tuple(table["labels"]),
            sites=tuple(table["sites"]),
            model_digest=table["model_digest"],
            layout_digest=table["layout_digest"],
            start_digest=table["start_digest"],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"not a manifest: {quoted(error)}") from error
    if manifest.content != content:
        raise ProtocolError("the manifest is not in its canonical form")
    return manifest
