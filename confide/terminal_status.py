"""One line on a terminal that says what a run waits for, and nothing in a file or a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confide.console import printable
from runs.progress import Progress


class _Line(Progress):
    """Shows the newest sentence; ``first`` where nobody is waited for."""

    def __init__(self, first: str, show: Callable[[str], None]) -> None:
        self._first, self._show = first, show

    def stage(self, text: str) -> None:
        self._show(printable(text))

    def doing(self, text: str) -> None:
        self._show(printable(text) or self._first)


@contextmanager
def told_in_a_line(first: str) -> Iterator[Progress]:
    """A listener that shows what a run does, on standard error if that is a terminal."""
    from rich.console import Console

    with Console(stderr=True, markup=False, emoji=False).status(first) as status:
        yield _Line(first, status.update)
