"""Opens the folder of a run, whichever kind it is of."""

from __future__ import annotations

from pathlib import Path

from runs.run_folder import RunFolder
from runs.statistics_folder import StatisticsFolder


def open_folder(path: Path) -> RunFolder | StatisticsFolder:
    """A run that trains, or one of statistics. Raises RunError if the folder is neither."""
    if (path / StatisticsFolder.MANIFEST).exists():
        return StatisticsFolder.open(path)
    return RunFolder.open(path)
