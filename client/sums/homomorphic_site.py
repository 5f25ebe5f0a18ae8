"""A site's updates as ciphertexts, which are opened only together."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from client.sums.compression import finite_or_zero
from client.sums.hidden_sums import HiddenSums
from client.sums.homomorphic_session import HomomorphicSession
from client.sums.site_sums import no_such_step
from client.sums.sum_session import Party
from privacy.accounting.plan import Plan
from privacy.errors import ProtocolError
from privacy.ledger.ledger import Ledger
from privacy.mechanisms.rng import NoiseSource
from privacy.secagg.ckks.ciphertexts import load_tenseal
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.processes.time_spent import Part, timed
from protocol.sums.update_encoding import update_reach


class HomomorphicSite(HiddenSums[HomomorphicSession]):
    """One run's homomorphic sums, as a site takes part in them."""

    def __init__(
        self, manifest: Manifest, *, update_size: int, plan: Plan, session: HomomorphicSession
    ) -> None:
        super().__init__(manifest, session=session)
        self._size = update_size
        self._plan = plan
        self._reach = update_reach(manifest.job)

    @classmethod
    def for_party(
        cls,
        manifest: Manifest,
        *,
        update_size: int,
        plan: Plan,
        party: Party,
        ledger: Ledger,  # noqa: ARG003 - no sum of a run that hides sites is made so
    ) -> Self:
        load_tenseal()
        session = HomomorphicSession.for_party(manifest, party)
        return cls(manifest, update_size=update_size, plan=plan, session=session)

    @timed(Part.SUMS)
    def check(self, request: pb.Train) -> None:
        self._session.check(request)

    @timed(Part.SUMS)
    def contribute(
        self,
        update: NDArray[np.float32],
        request: pb.Train,
        source: NoiseSource,  # noqa: ARG002 - rounding is not random here
    ) -> pb.Trained:
        sent = update if self._plan.protects else finite_or_zero(update)
        return self._session.contribute(sent, request, reach=self._reach)

    def check_metrics(self, request: pb.Evaluate) -> None:  # noqa: ARG002
        raise _no_metrics()

    def contribute_count(
        self,
        right: int,  # noqa: ARG002
        examples: int,  # noqa: ARG002
        request: pb.Evaluate,  # noqa: ARG002
        *,
        personal: int | None = None,  # noqa: ARG002
    ) -> pb.Evaluated:
        raise _no_metrics()

    def _uncover(self, request: pb.Request) -> pb.Reply:
        if request.HasField("open"):
            opened = self._session.open_sum(request.open, update_size=self._size, reach=self._reach)
            return pb.Reply(opened=opened)
        raise no_such_step(request, self._manifest.job.aggregation.kind)


def _no_metrics() -> ProtocolError:
    return ProtocolError('expected no metrics with aggregation.kind="homomorphic": metrics.epsilon=0')
