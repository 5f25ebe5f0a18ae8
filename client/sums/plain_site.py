"""A site's updates for a coordinator that reads each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from client.sums.compression import Compression
from client.sums.site_sums import no_such_step
from client.sums.sum_session import Party
from privacy.accounting.plan import Plan
from privacy.ledger.ledger import Ledger
from privacy.mechanisms.clipping import clip
from privacy.mechanisms.rng import NoiseSource
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from protocol.processes.time_spent import Part, timed
from protocol.sums.sparsification import decode_top, encode_top


class PlainSite:
    """One run without secure aggregation: updates and counts leave as they are."""

    hidden = False

    def __init__(self, manifest: Manifest, *, update_size: int, plan: Plan) -> None:
        self._manifest = manifest
        self._size = update_size
        self._plan = plan
        self._compression = Compression(manifest, update_size=update_size)

    @classmethod
    def for_party(
        cls,
        manifest: Manifest,
        *,
        update_size: int,
        plan: Plan,
        party: Party,  # noqa: ARG003 - sites have nothing to do with one another
        ledger: Ledger,  # noqa: ARG003 - the coordinator adds up
    ) -> Self:
        return cls(manifest, update_size=update_size, plan=plan)

    def join(self, joined: pb.Joined) -> None:
        """Nothing is agreed on beforehand."""

    def know_peers(self, peers: Callable[[], Mapping[str, bytes]]) -> None:
        """Sites have nothing to do with one another, and a home needs no list of them."""

    def check(self, request: pb.Train) -> None:
        """Any round will do."""

    @timed(Part.SUMS)
    def contribute(
        self,
        update: NDArray[np.float32],
        request: pb.Train,
        source: NoiseSource,  # noqa: ARG002 - nothing is drawn
    ) -> pb.Trained:
        total = self._compression.total(update, request.round)
        top = self._manifest.job.compression.kind == "top-k"
        sent = self._largest(total, request.round) if top else self._chosen(total, request.round)
        return pb.Trained(round=request.round, update=sent)

    def check_metrics(self, request: pb.Evaluate) -> None:
        """A count may be asked for at any time."""

    def contribute_count(
        self,
        right: int,
        examples: int,
        request: pb.Evaluate,  # noqa: ARG002 - one is as good as another
        *,
        personal: int | None = None,
    ) -> pb.Evaluated:
        return pb.Evaluated(right=right, examples=examples, personal=personal)

    def answer(self, request: pb.Request) -> pb.Reply:
        raise no_such_step(request, self._manifest.job.aggregation.kind)

    def _largest(self, total: NDArray[np.float32], round_number: int) -> bytes:
        share = self._manifest.job.compression.share
        content = encode_top(total, share=share)
        sent = decode_top(content, size=self._size, share=share)
        self._compression.keep(total - sent, round_number)
        return content

    def _chosen(self, total: NDArray[np.float32], round_number: int) -> bytes:
        chosen = self._compression.choose(total, round_number)
        self._compression.sent(chosen)
        if not self._plan.hides_sites:
            return to_bytes(chosen.values)
        # Rounded to float32, a vector may be longer by one part in 2^24.
        bound = self._plan.clipping_norm * (1.0 - 2.0**-23)
        return to_bytes(clip(chosen.values, bound=bound, norm=2).reals.astype(np.float32))
