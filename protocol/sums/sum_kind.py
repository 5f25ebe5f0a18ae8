"""What both ends of a way to sum agree on, and what people are told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from privacy.accounting.plan import Plan
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb

# Of a manifest's digest, in a made-up message.
DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class RoundMessages:
    """A round's messages of one site, made up and of the right length.

    ``train`` and ``trained`` have what this kind of sum adds to a round's request and to its answer, the
    update among it. ``requests`` and ``replies`` are those of the steps after it. ``opening`` counts the
    bytes that whoever opens a sum is sent and sends, once a round.
    """

    train: pb.Train
    trained: pb.Trained
    requests: Sequence[pb.Request] = field(default=())
    replies: Sequence[pb.Reply] = field(default=())
    opening: int = 0


class SumKind(Protocol):
    """A way to sum. Its site's side is in ``client.sums``, its coordinator's in ``server.sums``."""

    def check(self, manifest: Manifest) -> None:
        """Raises JobError, saying which key to change, for sums that would not be safe."""
        ...

    def check_size(self, manifest: Manifest, *, update_size: int, plan: Plan | None) -> None:
        """Raises JobError or PlanError for updates of so many numbers that cannot be summed."""
        ...

    def refusal(self, manifest: Manifest, *, colluding: int) -> str | None:
        """Why a site would refuse that expects so many others to work with the coordinator."""
        ...

    def who_reads(self, manifest: Manifest) -> str:
        """What a custodian must know before a run: a coordinator's view of one site's updates."""
        ...

    def notice(self, manifest: Manifest) -> str:
        """What a report says of the same."""
        ...

    def longest_update(self, job: Job, *, update_size: int) -> int:
        """How many bytes an update has at most as it travels."""
        ...

    def messages(self, job: Job, sites: Sequence[str], *, site: str, update_size: int) -> RoundMessages:
        """A round's messages of ``site``, one of ``sites``."""
        ...
