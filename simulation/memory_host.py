"""A simulated site's host: what it trains on is in memory already."""

from __future__ import annotations

from dataclasses import dataclass

from client.host import LocalData, Materials
from protocol.job.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class MemoryHost:
    """A simulated site's host: its data and its model are there before it is asked."""

    alias: str
    members: tuple[bytes, ...]
    materials: Materials

    def find_data(self, _manifest: Manifest) -> LocalData:
        return self

    def load_materials(self, _manifest: Manifest, _data: LocalData, _start: bytes | None) -> Materials:
        # The model is the coordinator's, too, which knows the adapter that the run began with.
        return self.materials
