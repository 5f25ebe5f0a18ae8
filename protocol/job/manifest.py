"""The manifest: a job made exact, in one canonical form."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

from privacy.canonical import canonical_json
from privacy.errors import ProtocolError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from protocol.job.section import SITES_MAX
from protocol.plain_text import LONGEST_LABEL, MOST_LABELS, is_plain, quoted

VERSION = version("confide")
MANIFEST_PURPOSE = "manifest"  # what a coordinator's signature under one is for

# No real job comes near it: ten thousand labels of twenty letters, twice, are half of it.
MOST_BYTES = 1 << 20

# What is planned before a model is there has none yet, and an empty digest.
_HEX = re.compile(r"[0-9a-f]{0,64}")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What every site of a run must agree to. Raises ProtocolError for names that people could not read.

    ``cohort`` is the number of sites in the run, ``labels`` are in the order of the head's outputs; the
    digests are SHA-256 as hex.
    """

    run: str
    job: Job
    cohort: int
    labels: tuple[str, ...]
    model_digest: str
    layout_digest: str
    version: str = VERSION

    def __post_init__(self) -> None:
        # People read the name on their terminals and in their ledgers.
        if not (isinstance(self.run, str) and _RUN.fullmatch(self.run)):
            raise ProtocolError(
                "expected a run's name of up to 120 letters, digits, dots, dashes and underscores, got "
                f"{quoted(self.run)}"
            )
        if type(self.cohort) is not int or not 1 <= self.cohort <= SITES_MAX:
            raise ProtocolError(f"expected a cohort of 1 to {SITES_MAX} sites, got {self.cohort!r}")
        self._check_labels()
        for digest in (self.model_digest, self.layout_digest):
            if not (isinstance(digest, str) and _HEX.fullmatch(digest)):
                raise ProtocolError(f"expected SHA-256 as hex, got {quoted(digest)}")

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
    def min_survivors(self) -> int:
        """How many sites' updates make a round at least: all of them, if the job does not say."""
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
            model_digest=table["model_digest"],
            layout_digest=table["layout_digest"],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"not a manifest: {quoted(error)}") from error
    if manifest.content != content:
        raise ProtocolError("the manifest is not in its canonical form")
    return manifest
