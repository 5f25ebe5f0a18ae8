"""The steps that a site has taken, on disk before their noise is drawn."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO

from privacy.errors import BudgetError
from protocol.durable import sync_folder

RECORD = "steps.jsonl"


class Spending:
    """A run's record at one site: one JSON line a charge, flushed to the disk.

    A round that is charged and then interrupted stays charged: its noisy update may have left. The file
    is read anew, under a lock, at each charge: several processes that answer for one site share one count.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Make an empty record where there is none, so that a lost one is noticed."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.open("a").close()
        sync_folder(self._path.parent)

    @property
    def steps(self) -> int:
        """Local steps charged so far; 0 without a record."""
        if not self._path.exists():
            return 0
        with self._path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return sum(steps for _, steps in _read(file)[1])

    def charge(self, *, round_number: int, steps: int, limit: int, repeatable: bool) -> int:
        """Charge a round's steps, before they are taken, and return the steps charged so far.

        ``repeatable`` is for keyed noise: taking the same round again releases the same numbers, so
        it costs nothing. Raises BudgetError, with nothing charged, if more than ``limit`` steps in
        all would be taken.
        """
        self.create()
        with self._path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end, charges = _read(file)
            taken = sum(charged for _, charged in charges)
            if repeatable and any(number == round_number for number, _ in charges):
                return taken
            if taken + steps > limit:
                raise BudgetError(
                    f"the site planned for {limit} steps and has taken {taken}; "
                    f"round {round_number} needs {steps} more"
                )
            file.seek(end)
            file.truncate()
            file.write(json.dumps({"round": round_number, "steps": steps}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return taken + steps


def _read(file: IO[bytes]) -> tuple[int, list[tuple[int, int]]]:
    """Where the last whole line ends, and the (round, steps) of each line.

    A last line without its end was cut off by a kill before any noise was drawn: it does not count.
    """
    content = file.read()
    end = content.rfind(b"\n") + 1
    entries = [json.loads(line) for line in content[:end].splitlines()]
    return end, [(entry["round"], entry["steps"]) for entry in entries]
