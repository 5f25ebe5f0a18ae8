"""Who is in a sum that grows as answers come: each site once."""

from __future__ import annotations

from collections.abc import Collection

from privacy.errors import ProtocolError, RunError


class Contributors:
    """The sites whose updates a running sum has."""

    def __init__(self) -> None:
        self._sites: set[str] = set()

    def check_new(self, site: str) -> None:
        """Raises ProtocolError for a site that is in the sum: nothing can be taken out of it again."""
        if site in self._sites:
            raise ProtocolError(f"{site} sent a second update for one sum")

    def add(self, site: str) -> None:
        """A site's update was added."""
        self._sites.add(site)

    def check_all(self, sites: Collection[str]) -> None:
        """Raises RunError unless these are the sites whose updates the sum has."""
        if self._sites != set(sites):
            odd = ", ".join(sorted(self._sites ^ set(sites)))
            raise RunError(f"expected the updates of the sites in the round in its sum, but for {odd}")
