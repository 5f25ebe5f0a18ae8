"""The steps that a site has taken, on disk before their noise is drawn."""

from __future__ import annotations

import json
import os
from pathlib import Path

from privacy.errors import BudgetError


class Spending:
    """A run's record at one site: one JSON line a charge, flushed to the disk.

    A round that is charged and then interrupted stays charged: its noisy update may have left.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rounds: list[tuple[int, int]] = []
        if path.exists():
            # A last line without its end was cut off by a kill before any noise was drawn.
            whole = path.read_text().rpartition("\n")[0]
            for line in whole.splitlines():
                entry = json.loads(line)
                self._rounds.append((entry["round"], entry["steps"]))

    @property
    def steps(self) -> int:
        """Local steps charged so far."""
        return sum(steps for _, steps in self._rounds)

    def charge(self, *, round_number: int, steps: int, limit: int, repeatable: bool) -> None:
        """Charge a round's steps, before they are taken.

        ``repeatable`` is for keyed noise: taking the same round again releases the same numbers, so
        it costs nothing. Raises BudgetError, with nothing charged, if more than ``limit`` steps in
        all would be taken.
        """
        if repeatable and any(known == round_number for known, _ in self._rounds):
            return
        if self.steps + steps > limit:
            raise BudgetError(
                f"the site planned for {limit} steps and has taken {self.steps}; "
                f"round {round_number} needs {steps} more"
            )
        line = json.dumps({"round": round_number, "steps": steps}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+" if self._path.exists() else "w") as file:
            content = file.read() if self._path.stat().st_size else ""
            file.seek(len(content.rpartition("\n")[0]) + 1 if "\n" in content else 0)
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._rounds.append((round_number, steps))
