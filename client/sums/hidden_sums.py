"""A site's part in sums of updates that nobody reads alone, whatever hides them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from client.sums.sum_session import SumSession
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.processes.time_spent import Part, timed

Session = TypeVar("Session", bound=SumSession[Any])


class HiddenSums(ABC, Generic[Session]):
    """The steps that masks and ciphertexts share: to join, to deal, and to confirm who answered.

    ``_session`` holds the run's secrets. A kind of sum adds how updates and counts leave, and ``_uncover``.
    """

    hidden = True

    def __init__(self, manifest: Manifest, *, session: Session) -> None:
        self._manifest = manifest
        self._session = session

    @timed(Part.SUMS)
    def join(self, joined: pb.Joined) -> None:
        member = self._session.join()
        joined.session_key, joined.session_signature = member.key, member.signature

    def know_peers(self, peers: Callable[[], Mapping[str, bytes]]) -> None:
        self._session.know_peers(peers())

    @timed(Part.SUMS)
    def answer(self, request: pb.Request) -> pb.Reply:
        if request.HasField("deal"):
            return pb.Reply(dealing=self._session.deal(request.deal.roster))
        if request.HasField("confirm"):
            return pb.Reply(confirmed=pb.Confirmed(signature=self._session.confirm(request.confirm)))
        return self._uncover(request)

    @abstractmethod
    def _uncover(self, request: pb.Request) -> pb.Reply:
        """Answer this kind's own last step. Raises ProtocolError for any other request."""
