"""How the counts of a run of statistics become one sum: in the open, or under masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.errors import JobError
from privacy.secagg.masks.coordinator_steps import add_up
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Count, Counted, Joined, Reply, Request
from protocol.sums.mask_messages import METRICS_RING, asked_to_count, write_cohort
from server.sums.masked_sums import MaskedSums
from server.sums.requests import Requests
from server.sums.sums import Asking


class CountSums(Protocol):
    """What a run of statistics asks of a way to sum counts, int64[bins] a site. Errors are of answers."""

    def join(self, site: str, joined: Joined) -> None:
        """Take a site in that has joined. Raises ProtocolError if it cannot be."""
        ...

    def prepare(self, members: Collection[str], number: int) -> list[str]:
        """See that the members can be asked to count: those of them that can."""
        ...

    def count(self, request: Count) -> Mapping[str, Request]:
        """The request for each of these."""
        ...

    def take(self, site: str, reply: Reply) -> Reply:
        """Check an answer as it comes. Raises ProtocolError for one that cannot be read."""
        ...

    def counts(self, counted: Mapping[str, Counted], number: int) -> NDArray[np.int64]:
        """The sum over the sites that counted, int64[bins] in units of 2^-30 of an example."""
        ...


class OpenCounts:
    """The coordinator reads each site's noisy counts."""

    def __init__(self, manifest: Manifest, *, bins: int) -> None:
        self._manifest = manifest
        self._bins = bins
        self._members: list[str] = []

    def join(self, site: str, joined: Joined) -> None:
        """Nothing is agreed on beforehand."""

    def prepare(self, members: Collection[str], number: int) -> list[str]:  # noqa: ARG002 - there is one
        self._members = sorted(members)
        return self._members

    def count(self, request: Count) -> Mapping[str, Request]:
        return dict.fromkeys(self._members, Request(count=request))

    def take(self, site: str, reply: Reply) -> Reply:  # noqa: ARG002 - one site is as good as another
        if reply.HasField("counted"):
            METRICS_RING.unpack(reply.counted.counts, size=self._bins)
        return reply

    def counts(self, counted: Mapping[str, Counted], number: int) -> NDArray[np.int64]:  # noqa: ARG002
        vectors = [METRICS_RING.unpack(one.counts, size=self._bins) for one in counted.values()]
        return METRICS_RING.centred(add_up(vectors, ring=METRICS_RING, size=self._bins))


class MaskedCounts(MaskedSums):
    """The coordinator reads the sum alone, by the steps of any sum under masks."""

    def count(self, request: Count) -> Mapping[str, Request]:
        cohorts, number = self._hand_on(asked_to_count(self._manifest)), self._now.roster.number

        def make(site: str) -> Request:
            made = Request(count=request)
            made.count.cohort.CopyFrom(write_cohort(cohorts[site], number=number))
            return made

        return Requests(cohorts, make)

    def take(self, site: str, reply: Reply) -> Reply:
        if reply.HasField("counted"):
            METRICS_RING.unpack(reply.counted.counts, size=self._size)
            return reply
        return super().take(site, reply)

    def counts(self, counted: Mapping[str, Counted], number: int) -> NDArray[np.int64]:
        vectors = [METRICS_RING.unpack(one.counts, size=self._size) for one in counted.values()]
        total = add_up(vectors, ring=METRICS_RING, size=self._size)
        return METRICS_RING.centred(
            self._uncovered(total, sorted(counted), ring=METRICS_RING, number=number)
        )


def make_count_sums(
    manifest: Manifest, *, bins: int, take_number: Callable[[], int], ask: Asking
) -> CountSums:
    """The way to sum that a manifest asks for. Raises JobError for one that has none for counts."""
    kind = manifest.job.aggregation.kind
    if kind == "masks":
        return MaskedCounts(manifest, update_size=bins, plan=None, take_number=take_number, ask=ask)
    if kind == "none":
        return OpenCounts(manifest, bins=bins)
    raise JobError(f'aggregation.kind="{kind}": expected "masks" or "none" with [statistics]')
