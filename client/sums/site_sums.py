"""A site's part in a run's sums: how what it computed leaves, and its answers in the steps between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from client.sums.sum_session import Party
from privacy.accounting.plan import Plan
from privacy.errors import ProtocolError
from privacy.ledger.ledger import Ledger
from privacy.mechanisms.rng import NoiseSource
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb


class SiteSums(Protocol):
    """What a site asks of a way to sum. A coordinator's requests are refused with AggregationError.

    ``hidden`` is whether sums alone are read. Whatever a method gives back may leave: an update or a count
    is hidden in it as well as this kind of sum hides one.
    """

    hidden: bool

    @classmethod
    def for_party(
        cls, manifest: Manifest, *, update_size: int, plan: Plan, party: Party, ledger: Ledger
    ) -> Self:
        """The part of a party in a run's sums, of updates of so many numbers.

        ``plan`` is the run's, as the ``ledger`` has it. Raises ProtocolError where the site is not known
        among its peers by its own identity, UserError where a library is missing.
        """
        ...

    def join(self, joined: pb.Joined) -> None:
        """Add to the answer to joining what sites agree on beforehand."""
        ...

    def know_peers(self, peers: Callable[[], Mapping[str, bytes]]) -> None:
        """Take the identities in ``peers`` from here on: the custodian may have changed them."""
        ...

    def check(self, request: pb.Train) -> None:
        """Raises AggregationError, PlanError or ProtocolError where an update would not leave.

        Before anything is charged or computed for it.
        """
        ...

    def contribute(self, update: NDArray[np.float32], request: pb.Train, source: NoiseSource) -> pb.Trained:
        """A round's update, float32[update_size], as it leaves: the answer, but for the receipt."""
        ...

    def check_metrics(self, request: pb.Evaluate) -> None:
        """The same as ``check`` for metrics."""
        ...

    def contribute_count(
        self, right: int, examples: int, request: pb.Evaluate, *, personal: int | None = None
    ) -> pb.Evaluated:
        """A noisy count and the number of examples as they leave: the answer, but for the receipt.

        ``personal`` is the noisy count for the site's own adapter, where the job has it take steps for one.
        """
        ...

    def answer(self, request: pb.Request) -> pb.Reply:
        """Answer a step of sums (``MessageKind.of_sum``). Raises ProtocolError where there is none."""
        ...


def no_such_step(request: pb.Request, kind: str) -> ProtocolError:
    """What a request for a step is refused with that sums of this kind do not have."""
    return ProtocolError(
        f"asked to {request.WhichOneof('kind')} in a run of aggregation.kind={kind!r}: its sums have no "
        "such step"
    )
