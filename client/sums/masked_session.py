"""A site's part in a run's sums under masks: what it keeps secret, written down before anything leaves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple, cast

from client.sums.sum_session import SumSession
from privacy.secagg.masks.site_steps import (
    Contribution,
    Holder,
    SiteState,
    advertise,
    begin,
    confirm,
    deal,
    prepare,
    reveal,
)
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Roster
from privacy.secagg.sealing import AgreementKey
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import (
    read_cohort,
    read_roster,
    read_signatures,
    write_dealing,
    write_shares,
)


class _Asked(NamedTuple):
    """A contribution that is asked for, and the state that it would start from."""

    state: SiteState
    cohort: pb.Cohort
    following: pb.Roster | None
    round_number: int
    asked: bytes

    def is_same(self, other: _Asked) -> bool:
        return self.state is other.state and self[1:] == other[1:]


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A contribution that was checked, and with it computed but for its vector. Nothing of it was told."""

    asked: _Asked
    contribution: Contribution
    state: SiteState
    dealing: pb.Dealing | None


class MaskedSession(SumSession[SiteState]):
    """A site's part in one run's sums under masks."""

    _kind = SiteState
    _ready: _Ready | None = None
    _kept: tuple[bytes, AgreementKey] | None = None
    _begin = staticmethod(begin)
    _advertise = staticmethod(advertise)

    def deal(self, message: pb.Roster) -> pb.Dealing:
        """Deal secrets for the sum that a roster is for. Raises AggregationError."""
        state, dealing = self._deal(self._secrets.now(), read_roster(message, self._rules))
        self._secrets.keep(state)
        return dealing

    @property
    def dealt_among(self) -> frozenset[str]:
        """The sites of the sum that secrets are dealt for: those that may hold shares of this one's."""
        dealer = self._secrets.now().dealer
        return frozenset() if dealer is None else frozenset(dealer.roster.places)

    def check(
        self,
        cohort: pb.Cohort,
        *,
        asked: bytes,
        round_number: int,
        following: pb.Roster | None = None,
    ) -> None:
        """Raises AggregationError if a contribution would be refused, before anything is computed.

        ``asked`` is a digest of what this site is asked to contribute: its masks cancel out with those of
        sites that were asked for the same.
        """
        self._ready = self._prepare(_Asked(self._secrets.now(), cohort, following, round_number, asked))

    def contribute(
        self,
        cohort: pb.Cohort,
        words: Words,
        *,
        asked: bytes,
        ring: Ring,
        round_number: int,
        following: pb.Roster | None = None,
    ) -> tuple[bytes, pb.Dealing | None]:
        """The masked words, packed, and the dealing for the sum after this one if its roster is known."""
        ready, self._ready = self._ready, None
        now = _Asked(self._secrets.now(), cohort, following, round_number, asked)
        if ready is None or not ready.asked.is_same(now):
            ready = self._prepare(now)
        masked = ready.contribution.mask(words, ring=ring)
        self._secrets.keep(ready.state)
        return ring.pack(masked), ready.dealing

    def confirm(self, message: pb.Confirm) -> bytes:
        """A signature under the survivors. Raises AggregationError."""
        state, signature = confirm(
            self._secrets.now(), message.survivors, number=message.number, identity=self._identity
        )
        self._secrets.keep(state)
        return signature

    def reveal(self, message: pb.Unmask) -> tuple[pb.Unmasked, int]:
        """The shares that uncover a sum, once, and the round that it was for. Raises AggregationError."""
        before = self._secrets.now()
        state, shares = reveal(
            before, message.survivors, number=message.number, signatures=read_signatures(message)
        )
        self._secrets.keep(state)
        holder = cast(Holder, before.holder)  # a state without one reveals nothing
        return write_shares(shares, holder.roster), holder.round

    def _prepare(self, asked: _Asked) -> _Ready:
        if asked.state.dealer is not None:
            for member in asked.state.dealer.roster.members:
                # Known when secrets were dealt; its custodian may know better since.
                member.check_pinned(self._peers.get(member.site))
        contribution = prepare(
            asked.state,
            read_cohort(asked.cohort, self._rules, asked=asked.asked),
            number=asked.cohort.number,
            round_number=asked.round_number,
            session=self._session(asked.state),
        )
        after, dealing = contribution.state, None
        if asked.following is not None:
            after, dealing = self._deal(after, read_roster(asked.following, self._rules))
        return _Ready(asked=asked, contribution=contribution, state=after, dealing=dealing)

    def _deal(self, state: SiteState, roster: Roster) -> tuple[SiteState, pb.Dealing]:
        state, dealing = deal(
            state, roster, peers=self._peers, random=os.urandom, session=self._session(state)
        )
        return state, write_dealing(dealing)

    def forget(self) -> None:
        super().forget()
        self._ready = self._kept = None

    def _session(self, state: SiteState) -> AgreementKey:
        """The run's key, with what it has agreed on with each neighbour: the same for all sums."""
        if self._kept is None or self._kept[0] != state.key:
            self._kept = state.key, AgreementKey(state.key, pairs=self._pairs)
        return self._kept[1]
