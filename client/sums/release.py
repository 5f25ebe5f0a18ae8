"""How a site's update leaves: whole, or some of its numbers, as they are, masked or encrypted."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.sums.homomorphic_session import HomomorphicSession
from client.sums.masked_session import MaskedSession
from client.sums.residual import Residual
from privacy.accounting.plan import Plan
from privacy.accounting.site_plan import release_share
from privacy.mechanisms.clipping import clip
from privacy.mechanisms.rng import NoiseSource
from privacy.secagg.encoding import Encoding
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from protocol.sums.mask_messages import asked_to_train
from protocol.sums.sparsification import Support, decode_top, encode_top
from protocol.sums.update_encoding import make_encoding, round_support, update_reach

log = logging.getLogger("confide.training")


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Makes what leaves of one run's updates, float32[update_size].

    ``plan`` is the run's, as the ledger has it. ``sums`` is the site's part in sums that hide
    updates, None where the coordinator reads each; ``residual`` is None where everything is sent at once.
    """

    manifest: Manifest
    update_size: int
    plan: Plan
    sums: MaskedSession | HomomorphicSession | None
    residual: Residual | None

    def check(self, request: pb.Train) -> None:
        """Raises AggregationError, PlanError or ProtocolError where an update would not leave."""
        if isinstance(self.sums, HomomorphicSession):
            self.sums.check(request)
        elif self.sums is not None:
            self._encoding(request)
            self.sums.check(
                request.cohort,
                asked=asked_to_train(request),
                round_number=request.round,
                following=_following(request),
            )

    def reply(self, update: NDArray[np.float32], request: pb.Train, source: NoiseSource) -> pb.Trained:
        """The answer to a round's request, but for the receipt."""
        if isinstance(self.sums, HomomorphicSession):
            update = self._finite(update)
            return self.sums.contribute(update, request, reach=update_reach(self.manifest.job))
        sent, dealing = self.send(update, request, source)
        return pb.Trained(round=request.round, update=sent, next=dealing)

    def send(
        self, update: NDArray[np.float32], request: pb.Train, source: NoiseSource
    ) -> tuple[bytes, pb.Dealing | None]:
        """What leaves, and under masks the dealing for the next sum.

        Whatever hides the update, noise in it, a share of noise or a mask, is in what comes back.
        """
        vector = update
        if self.residual is not None:
            vector = self.residual.add(update, round_number=request.round)
        if self.sums is None or isinstance(self.sums, HomomorphicSession):
            return self._plain(vector, request.round), None
        vector = self._finite(vector)
        support = round_support(self.manifest, update_size=self.update_size, number=request.round)
        chosen = vector if support is None else support.take(vector)
        encoding = self._encoding(request)
        if self.plan.unit == "site":
            clipped = encoding.clipped_integers(
                chosen, clipping_norm=self.plan.clipping_norm, source=source
            )
            shared = self.plan.shared is not None
            integers = release_share(self.plan, clipped, source) if shared else clipped.value
        else:
            integers = encoding.integers(chosen, source)
        self._keep(vector, chosen, support, request.round)
        return self.sums.contribute(
            request.cohort,
            encoding.words(integers),
            asked=asked_to_train(request),
            ring=encoding.ring,
            round_number=request.round,
            following=_following(request),
        )

    def _finite(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """A vector of which only a sum is read; zero if it is not finite, and has no noise of its own.

        To refuse would tell of this one. With noise in it there is nothing to hide.
        """
        if self.plan.mechanism.name != "none" or np.isfinite(vector).all():
            return vector
        log.warning("an update that is not finite counts as zero: lower training.learning_rate")
        return np.zeros_like(vector)

    def _plain(self, vector: NDArray[np.float32], round_number: int) -> bytes:
        """Float32 for a coordinator that reads each site's update."""
        compression = self.manifest.job.compression
        if compression.kind == "top-k":
            content = encode_top(vector, share=compression.share)
            sent = decode_top(content, size=self.update_size, share=compression.share)
            self._rest(vector - sent, round_number)
            return content
        support = round_support(self.manifest, update_size=self.update_size, number=round_number)
        chosen = vector if support is None else support.take(vector)
        self._keep(vector, chosen, support, round_number)
        if self.plan.unit == "site":
            # Rounded to float32, a vector may be longer by one part in 2^24.
            bound = self.plan.clipping_norm * (1.0 - 2.0**-23)
            chosen = clip(chosen, bound=bound, norm=2).reals.astype(np.float32)
        return to_bytes(chosen)

    def _keep(
        self,
        vector: NDArray[np.float32],
        chosen: NDArray[np.float32],
        support: Support | None,
        round_number: int,
    ) -> None:
        if support is not None:
            self._rest(vector - support.spread(chosen), round_number)

    def _rest(self, rest: NDArray[np.float32], round_number: int) -> None:
        if self.residual is not None:
            self.residual.keep(rest, round_number=round_number)

    def _encoding(self, request: pb.Train) -> Encoding:
        return make_encoding(
            self.manifest,
            update_size=self.update_size,
            number=request.cohort.number,
            noise_std=request.noise_std,
            plan=self.plan,
        )


def _following(request: pb.Train) -> pb.Roster | None:
    return request.next if request.HasField("next") else None
