"""The manifest: a job made exact, in one canonical form."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from privacy.canonical import canonical_json
from privacy.errors import ProtocolError
from protocol.job import SITES_MAX, Job
from protocol.job_file import parse_job

VERSION = "0.4.0"
MANIFEST_PURPOSE = "manifest"  # what a coordinator's signature under one is for

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What every site of a run must agree to. Raises ProtocolError for a run without a proper name.

    ``cohort`` is the number of sites in the run, ``labels`` are in the order of the head's outputs; the
    digests are SHA-256 as hex.
    """

    run: str
    job: Job
    cohort: int
    labels: tuple[str, ...]
    base_digest: str
    layout_digest: str
    version: str = VERSION

    def __post_init__(self) -> None:
        # People read the name on their terminals and in their ledgers.
        if not (isinstance(self.run, str) and _RUN.fullmatch(self.run)):
            raise ProtocolError(
                "expected a run's name of up to 120 letters, digits, dots, dashes and underscores, got "
                f"{self.run!r}"
            )
        if type(self.cohort) is not int or not 1 <= self.cohort <= SITES_MAX:
            raise ProtocolError(f"expected a cohort of 1 to {SITES_MAX} sites, got {self.cohort!r}")

    @property
    def fewest(self) -> int:
        """How many sites' updates make a round at least: all of them, if the job does not say."""
        return min(self.job.federation.min_sites or self.cohort, self.cohort)

    @property
    def threshold(self) -> int:
        """How many sites it takes to uncover a sum: two thirds of all and more, unless the job says."""
        return self.job.aggregation.threshold or 2 * self.cohort // 3 + 1

    @cached_property
    def content(self) -> bytes:
        """Canonical JSON: keys in order, no spaces, UTF-8."""
        table = asdict(self) | {"job": self.job.model_dump(mode="json")}
        return canonical_json(table)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical content: 32 bytes."""
        return hashlib.sha256(self.content).digest()


def read_manifest(content: bytes) -> Manifest:
    """Parse a manifest. Raises ProtocolError if it is not canonical or of another version."""
    try:
        table: dict[str, Any] = json.loads(content)
        version = table["version"]
        if version != VERSION:
            raise ProtocolError(f"the manifest is of Confide {version}, this is {VERSION}: use one")
        manifest = Manifest(
            run=table["run"],
            job=parse_job(table["job"]),
            cohort=table["cohort"],
            labels=tuple(table["labels"]),
            base_digest=table["base_digest"],
            layout_digest=table["layout_digest"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"not a manifest: {error!r}") from error
    if manifest.content != content:
        raise ProtocolError("the manifest is not in its canonical form")
    return manifest
