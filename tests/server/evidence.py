"""Evidence of a run, and ways to tamper with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import ConfideError
from privacy.identity import Identity
from privacy.ledger.receipt import Receipt, sign_receipt
from runs.progress import Silence
from runs.run_audit import audit_run
from runs.run_folder import RoundRecord, RunFolder

SITES = ("site-1", "site-2", "site-3")


class Witness(Silence):
    """Copies a site's home as it is after each round."""

    def __init__(self, run: Path, copies: Path) -> None:
        self._site, self._copies = run / "sites" / "site-2", copies

    def round(self, record: RoundRecord) -> None:
        shutil.copytree(self._site, self._copies / str(record.round))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run of three rounds; ``earlier[n]`` is site-2's home as it was after round n."""

    run: Path
    earlier: dict[int, Path]


def ledgers(run: RunFolder, *sites: str) -> list[Path]:
    return [run.path / "sites" / site / "ledger.db" for site in sites or SITES]


def identity(run: RunFolder) -> Identity:
    """site-2's key."""
    return Identity.load(run.path / "sites" / "site-2" / "identity.key")


def receipt(run: RunFolder, number: int) -> Receipt:
    """site-2's."""
    return run.receipts(number)["site-2"].read(run.public_keys["site-2"])


def resign(folder: RunFolder, number: int, /, **changes: Any) -> None:
    """site-2 itself says something else, and the coordinator's own record goes along."""
    changed = replace(receipt(folder, number), **changes)
    signed = {"site-2": sign_receipt(identity(folder), changed)}
    folder.save_receipts(number, folder.receipts(number) | signed)
    if "epsilon" in changes:
        tell(folder, number, changed.epsilon)


def tell(run: RunFolder, number: int, epsilon: float | None) -> None:
    """Change site-2's ε in a line of rounds.jsonl."""
    path = run.path / "rounds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number - 1]["epsilon"]["site-2"] = epsilon
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def found(run: RunFolder, told: list[Path] | None = None) -> str:
    """What the audit says is wrong."""
    with pytest.raises(ConfideError) as caught:
        audit_run(run, told or [])
    return str(caught.value)
