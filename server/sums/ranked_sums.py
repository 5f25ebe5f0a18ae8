"""Plain updates of sites that train at ranks of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.manifest import Manifest
from protocol.job.ranks import layout_at, rank_at, widened
from protocol.messages.confide_pb2 import Request, Train
from protocol.messages.vector import from_bytes
from server.sums.sums import Asking, PlainSums


class RankedSums(PlainSums):
    """Each site's update is as long as its own adapter's, and is padded to the run's when it comes."""

    def __init__(
        self, manifest: Manifest, *, layout: AdapterLayout, take_number: Callable[[], int], ask: Asking
    ) -> None:
        super().__init__(
            manifest, update_size=layout.update_size, plan=None, take_number=take_number, ask=ask
        )
        self._layout = layout
        self._begun = np.zeros(layout.adapter_size, np.float32)  # what the sites got in this round

    def train(self, request: Train, *, following: Collection[str]) -> Mapping[str, Request]:
        self._begun = from_bytes(request.adapter, size=self._layout.adapter_size)
        return super().train(request, following=following)

    def _read(self, site: str, update: bytes) -> NDArray[np.float32]:
        rank = rank_at(self._manifest.job, site)
        sent = from_bytes(update, size=layout_at(self._layout, rank).update_size)
        return widened(sent, self._begun, self._layout, rank=rank)
