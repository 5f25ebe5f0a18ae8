"""Requests that are made when they are looked up: all at once they would hold an adapter a site."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from protocol.messages.confide_pb2 import Request


class Requests(Mapping[str, Request]):
    """A request a site, the same each time that ``make`` is called for it."""

    def __init__(self, sites: Collection[str], make: Callable[[str], Request]) -> None:
        self._sites, self._make = sites, make

    def __getitem__(self, site: str) -> Request:
        if site not in self._sites:
            raise KeyError(site)
        return self._make(site)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)
