"""A site's updates and counts under masks: each is put on a grid and masked, and only sums are read."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from client.sums.compression import Compression, finite_or_zero
from client.sums.hidden_sums import HiddenSums
from client.sums.masked_session import MaskedSession
from client.sums.site_sums import no_such_step
from client.sums.sum_session import Party
from privacy.accounting.plan import Plan, SitePlan
from privacy.errors import AggregationError
from privacy.ledger.ledger import Ledger
from privacy.mechanisms.rng import NoiseSource
from privacy.secagg.encoding import Encoding
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.plain_text import quoted_some
from protocol.processes.time_spent import Part, timed
from protocol.sums.mask_messages import METRICS_RING, asked_to_evaluate, asked_to_train
from protocol.sums.update_encoding import make_encoding


class MaskedSite(HiddenSums[MaskedSession]):
    """One run's sums under masks, as a site takes part in them.

    ``plan`` is the run's, as the ``ledger`` has it; the ledger hears of each sum that hides the whole site.
    """

    def __init__(
        self, manifest: Manifest, *, update_size: int, plan: Plan, session: MaskedSession, ledger: Ledger
    ) -> None:
        super().__init__(manifest, session=session)
        self._size = update_size
        self._plan = plan
        self._ledger = ledger
        self._compression = Compression(manifest, update_size=update_size)
        self._checked: tuple[pb.Train, bytes] | None = None  # a request, and what it asks

    @classmethod
    def for_party(
        cls, manifest: Manifest, *, update_size: int, plan: Plan, party: Party, ledger: Ledger
    ) -> Self:
        session = MaskedSession.for_party(manifest, party)
        return cls(manifest, update_size=update_size, plan=plan, session=session, ledger=ledger)

    @timed(Part.SUMS)
    def check(self, request: pb.Train) -> None:
        self._encoding(request)
        self._check_drawn(request.cohort, request.round)
        asked = asked_to_train(request)
        self._session.check(
            request.cohort,
            asked=asked,
            round_number=request.round,
            following=_following(request),
        )
        self._checked = request, asked

    @timed(Part.SUMS)
    def contribute(self, update: NDArray[np.float32], request: pb.Train, source: NoiseSource) -> pb.Trained:
        total = self._compression.total(update, request.round)
        if not self._plan.protects:
            total = finite_or_zero(total)
        chosen = self._compression.choose(total, request.round)
        encoding = self._encoding(request)
        integers = self._integers(chosen.values, encoding, source)
        self._compression.sent(chosen)
        (checked, asked), self._checked = self._checked or (None, b""), None
        masked, dealing = self._session.contribute(
            request.cohort,
            encoding.words(integers),
            asked=asked if checked is request else asked_to_train(request),
            ring=encoding.ring,
            round_number=request.round,
            following=_following(request),
        )
        return pb.Trained(round=request.round, update=masked, next=dealing)

    @timed(Part.SUMS)
    def check_metrics(self, request: pb.Evaluate) -> None:
        self._check_drawn(request.cohort, self._metrics_round)
        self._session.check(
            request.cohort, asked=asked_to_evaluate(request), round_number=self._metrics_round
        )

    @timed(Part.SUMS)
    def contribute_count(
        self, right: int, examples: int, request: pb.Evaluate, *, personal: int | None = None
    ) -> pb.Evaluated:
        told = [right, examples] if personal is None else [right, examples, personal]
        masked, _ = self._session.contribute(
            request.cohort,
            METRICS_RING.words(np.array(told, np.int64)),
            asked=asked_to_evaluate(request),
            ring=METRICS_RING,
            round_number=self._metrics_round,
        )
        return pb.Evaluated(masked=masked)

    def _uncover(self, request: pb.Request) -> pb.Reply:
        if request.HasField("unmask"):
            return pb.Reply(unmasked=self._unmask(request.unmask))
        raise no_such_step(request, self._manifest.job.aggregation.kind)

    def _integers(
        self, values: NDArray[np.float32], encoding: Encoding, source: NoiseSource
    ) -> NDArray[np.int64]:
        """What is masked, with the site's own share of noise in it where noise is drawn in shares."""
        if not isinstance(self._plan, SitePlan):
            return encoding.integers(values, source)
        clipped = encoding.clipped_integers(values, clipping_norm=self._plan.clipping_norm, source=source)
        with timed(Part.NOISE):
            return self._plan.contribution(clipped, source)

    def _unmask(self, request: pb.Unmask) -> pb.Unmasked:
        shares, number = self._session.reveal(request)
        job = self._manifest.job
        # Noise that is drawn again bounds nothing, whatever is summed.
        if self._plan.hides_sites and self._plan.protects and job.seeds.noise is None:
            with timed(Part.LEDGER):
                self._ledger.record_summed(
                    run=self._manifest.run, round_number=number, survivors=len(request.survivors)
                )
        if number == job.training.rounds + (job.metrics.epsilon > 0):
            self._session.forget()  # no sum of this run is to come
        return shares

    def _check_drawn(self, cohort: pb.Cohort, number: int) -> None:
        """Raises AggregationError for a sum with sites that the public draw does not have in its round.

        None may be among those that secrets were dealt to, either: sites that collude would hold shares
        without being drawn. Who was drawn and is away may be missing: of those there is the least number.
        """
        drawn = self._manifest.drawn(number)
        if drawn is None:
            return
        others = self._session.dealt_among.union(one.site for one in cohort.dealt) - drawn
        if others:
            raise AggregationError(
                f"{quoted_some(sorted(others))} would be in the sum of round {number} and not drawn for it",
                rule="cohort",
            )

    def _encoding(self, request: pb.Train) -> Encoding:
        return make_encoding(
            self._manifest,
            update_size=self._size,
            number=request.cohort.number,
            noise_std=request.noise_std,
            plan=self._plan,
        )

    @property
    def _metrics_round(self) -> int:
        """Metrics are summed after the last round, as one more."""
        return self._manifest.job.training.rounds + 1


def _following(request: pb.Train) -> pb.Roster | None:
    return request.next if request.HasField("next") else None
