"""The manifest: a job made exact, in one canonical form."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from privacy.errors import ProtocolError
from protocol.job import Job
from protocol.job_file import parse_job

VERSION = "0.1.0"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What every site of a run must agree to.

    ``labels`` are in the order of the head's outputs; the digests are SHA-256 as hex.
    """

    run: str
    job: Job
    labels: tuple[str, ...]
    base_digest: str
    layout_digest: str
    version: str = VERSION

    @cached_property
    def content(self) -> bytes:
        """Canonical JSON: keys in order, no spaces, UTF-8."""
        table = asdict(self) | {"job": self.job.model_dump(mode="json")}
        return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

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
            labels=tuple(table["labels"]),
            base_digest=table["base_digest"],
            layout_digest=table["layout_digest"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"not a manifest: {error!r}") from error
    if manifest.content != content:
        raise ProtocolError("the manifest is not in its canonical form")
    return manifest
