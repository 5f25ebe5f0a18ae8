"""Where a simulation tells how it goes on."""

from __future__ import annotations

from typing import Protocol

from server.run_folder import RoundRecord, RunFolder


class Progress(Protocol):
    """A listener to one or more runs; by default there is none."""

    def stage(self, text: str) -> None:
        """Something slow begins."""
        ...

    def started(self, folder: RunFolder, title: str) -> None:
        """A run has its folder; its rounds follow."""
        ...

    def round(self, record: RoundRecord) -> None:
        """A round is finished and on disk."""
        ...


class Silence:
    """A listener that says nothing."""

    def stage(self, text: str) -> None:
        return None

    def started(self, folder: RunFolder, title: str) -> None:
        return None

    def round(self, record: RoundRecord) -> None:
        return None


class PrintedProgress:
    """A listener that prints a line a round, for logs that others collect."""

    def stage(self, text: str) -> None:
        print(text, flush=True)

    def started(self, folder: RunFolder, title: str) -> None:
        print(f"{title}: {folder.path}", flush=True)

    def round(self, record: RoundRecord) -> None:
        print(
            f"round {record.round}: loss {record.loss:.4f}, accuracy {record.accuracy:.4f}, "
            f"{record.seconds:.1f} s",
            flush=True,
        )
