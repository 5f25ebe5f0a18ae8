"""What a coordinator still has of its sites' receipts from earlier runs: the newest of each.

A site's ledger only ever grows, so it must have the entry that any of its receipts names, whichever run it
was of. One that lacks it is an older copy. Runs of the same sites lie side by side: those of a federation,
or simulated ones whose sites are at home in the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from privacy.errors import RunError
from privacy.ledger.receipt import SignedReceipt
from runs.asked_folder import AskedFolder, ReceiptsOf

# What has one receipt a site in a run.
_ONCE: dict[str, ReceiptsOf] = {"metrics": "metrics", "statistics": "statistics"}


def earlier_receipts(folder: AskedFolder) -> dict[str, SignedReceipt]:
    """The newest receipt of each site in the runs beside this one, by when they were written.

    What cannot be read is left out: a receipt can only show that a ledger is too old, and never that it is
    not.
    """
    found: dict[str, SignedReceipt] = {}
    waited: dict[Path, set[str]] = {}
    for _when, run, of in sorted(_written(folder), key=lambda one: one[0], reverse=True):
        try:
            missing = waited.setdefault(run.path, set(run.public_keys))
            missing -= found.keys()
            if missing:
                found |= {name: kept for name, kept in run.receipts(of).items() if name in missing}
        except (RunError, OSError):
            continue
    return found


def _written(folder: AskedFolder) -> Iterator[tuple[int, AskedFolder, ReceiptsOf]]:
    """When each file of receipts was written in the runs of the same sites, but for this run's own."""
    homes = _homes(folder.path)
    for beside in folder.path.parent.iterdir():
        try:
            same = beside.name != folder.path.name and _homes(beside) == homes
            written = [(path.stat().st_mtime_ns, path.stem) for path in _files(beside)] if same else []
        except OSError:
            continue  # somebody else's, such as in a folder for all
        for when, stem in written:
            yield when, AskedFolder(beside), _ONCE.get(stem) or int(stem)


def _files(run: Path) -> Iterator[Path]:
    for path in (run / "receipts").glob("*.json"):
        if path.stem in _ONCE or path.stem.isdecimal():
            yield path


def _homes(run: Path) -> Path | None:
    """Where a run's sites are at home, if that is on this machine."""
    homes = run / "sites"
    return homes.resolve() if homes.exists() else None
