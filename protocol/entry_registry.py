"""What a job may name: what is listed, and what is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from privacy.errors import UnknownNameError
from protocol.plain_text import quoted

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Registry(Generic[T]):
    """Kinds of one thing by name: those of Confide, and those that installed packages bring along.

    A name comes from a stranger's job, so that nothing else is ever imported. A listed one is never
    replaced by an installed one.

    Attributes:
        key: the key of a job that holds the name, for messages.
        group: the entry points of other packages.
        listed: Confide's own, each as ``module:attribute``.
    """

    key: str
    group: str
    listed: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """The listed names as they are listed, then the installed ones in order."""
        installed = {point.name for point in entry_points(group=self.group)}
        return (*self.listed, *sorted(installed - self.listed.keys()))

    def find(self, name: object) -> T:
        """What has that name. Raises UnknownNameError if nothing does."""
        points: list[EntryPoint] = []
        if isinstance(name, str):
            listed = self.listed.get(name)
            points = (
                list(entry_points(group=self.group, name=name))
                if listed is None
                else [EntryPoint(name, listed, self.group)]
            )
        if not points:
            raise UnknownNameError(
                f"{self.key}: expected one of {', '.join(self.names())}, got {quoted(name)}"
            )
        found: T = points[0].load()
        return found
