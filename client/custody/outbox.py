"""The outbox in a site's home: the last answers of each run, under names that no run can choose."""

from __future__ import annotations

import hashlib
from pathlib import Path


def run_stem(run: str) -> str:
    """A file's name for a run, whose own comes from outside and is no path."""
    return hashlib.sha256(run.encode("utf-8", "surrogatepass")).hexdigest()


def forget_run(outbox: Path, run: str) -> None:
    """Forget all that was answered in a run that was charged nothing: the site is asked anew."""
    for path in outbox.glob(f"{run_stem(run)}.*"):
        path.unlink(missing_ok=True)
