"""A site's part in a run's sums under masks: what it keeps secret, written down before anything leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from privacy.durable import write_durably
from privacy.errors import AggregationError, LostError
from privacy.identity import Identity
from privacy.ring import Ring, Words
from privacy.roster import Member, Roster, Rules
from privacy.secagg import (
    SiteState,
    advertise,
    begin,
    check_cohort,
    check_roster,
    confirm,
    contribute,
    deal,
    reveal,
)
from privacy.secagg_state import dump_state, load_state
from protocol import confide_pb2 as pb
from protocol.sums import (
    read_cohort,
    read_roster,
    read_signatures,
    write_dealing,
    write_shares,
)


class MaskedSession:
    """The secrets of one run at one site, in ``path``, or in memory alone where it is None.

    Kept in memory they are lost with the process, and the site joins again. ``peers`` are the identities
    of all sites that are known here. Whatever a method gives back may leave: the state that goes with it is
    durable then. A state that was put back from a copy could reveal twice: nothing may copy the file.
    """

    def __init__(
        self,
        *,
        site: str,
        rules: Rules,
        identity: Identity,
        peers: Mapping[str, bytes],
        path: Path | None,
    ) -> None:
        self._site = site
        self._rules = rules
        self._identity = identity
        self._peers = peers
        self._path = path
        self._state: SiteState | None = None

    def join(self) -> Member:
        """The session's public key, signed; a session that is there already stays."""
        state = self._state or self._read()
        if state is None:
            state, member = begin(
                self._site, self._rules.manifest, identity=self._identity, random=os.urandom
            )
            self._keep(state)
            return member
        self._state = state
        return advertise(state, identity=self._identity)

    def deal(self, message: pb.Roster) -> pb.Dealing:
        """Deal secrets for the sum that a roster is for. Raises AggregationError."""
        state, dealing = self._deal(self._now(), read_roster(message, self._rules))
        self._keep(state)
        return dealing

    def check(self, cohort: pb.Cohort, following: pb.Roster | None = None) -> None:
        """Raises AggregationError if a contribution would be refused, before anything is computed."""
        state = self._now()
        check_cohort(state, read_cohort(cohort, self._rules), number=cohort.number)
        if following is not None:
            check_roster(state, read_roster(following, self._rules), self._peers)

    def contribute(
        self,
        cohort: pb.Cohort,
        words: Words,
        *,
        ring: Ring,
        round_number: int,
        following: pb.Roster | None = None,
    ) -> tuple[bytes, pb.Dealing | None]:
        """The masked words, packed, and the dealing for the sum after this one if its roster is known."""
        state, masked = contribute(
            self._now(),
            read_cohort(cohort, self._rules),
            words,
            number=cohort.number,
            ring=ring,
            round_number=round_number,
        )
        dealing = None
        if following is not None:
            state, dealing = self._deal(state, read_roster(following, self._rules))
        self._keep(state)
        return ring.pack(masked), dealing

    def confirm(self, number: int, survivors: Sequence[str]) -> bytes:
        """A signature under the survivors. Raises AggregationError."""
        state, signature = confirm(self._now(), survivors, number=number, identity=self._identity)
        self._keep(state)
        return signature

    def reveal(self, message: pb.Unmask) -> tuple[pb.Unmasked, int]:
        """The shares that uncover a sum, once, and the round that it was for. Raises AggregationError."""
        before = self._now()
        state, shares = reveal(
            before, message.survivors, number=message.number, signatures=read_signatures(message)
        )
        if before.holder is None:
            raise LostError(f"no shares are held here for sum {message.number}")
        self._keep(state)
        return write_shares(shares, before.holder.roster), before.holder.round

    def _deal(self, state: SiteState, roster: Roster) -> tuple[SiteState, pb.Dealing]:
        state, dealing = deal(state, roster, peers=self._peers, random=os.urandom)
        return state, write_dealing(dealing)

    def _now(self) -> SiteState:
        state = self._state or self._read()
        if state is None:
            raise LostError("this site has no secrets of this run any more: it joins again")
        self._state = state
        return state

    def _read(self) -> SiteState | None:
        if self._path is None or not self._path.exists():
            return None
        state = load_state(self._path.read_bytes())
        if (state.site, state.manifest) != (self._site, self._rules.manifest):
            raise AggregationError(f"{self._path} is of another site or run", rule="secrets")
        return state

    def _keep(self, state: SiteState) -> None:
        if self._path is not None:
            if not self._path.parent.exists():
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(self._path, dump_state(state), mode=0o600)
        self._state = state
