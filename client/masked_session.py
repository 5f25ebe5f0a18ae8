"""A site's part in a run's sums under masks: what it keeps secret, written down before anything leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from client.run_secrets import RunSecrets
from privacy.errors import LostError
from privacy.identity import Identity
from privacy.ring import Ring, Words
from privacy.roster import Member, Roster, Rules
from privacy.secagg import (
    SiteState,
    advertise,
    begin,
    confirm,
    contribute,
    deal,
    reveal,
)
from protocol import confide_pb2 as pb
from protocol.sums import (
    read_cohort,
    read_roster,
    read_signatures,
    write_dealing,
    write_shares,
)

_NOTHING = Ring(16)


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
        self._secrets = RunSecrets(SiteState, site=site, manifest=rules.manifest, path=path)

    def join(self) -> Member:
        """The session's public key, signed; a session that is there already stays."""
        state = self._secrets.find()
        if state is None:
            state, member = begin(
                self._site, self._rules.manifest, identity=self._identity, random=os.urandom
            )
            self._secrets.keep(state)
            return member
        return advertise(state, identity=self._identity)

    def deal(self, message: pb.Roster) -> pb.Dealing:
        """Deal secrets for the sum that a roster is for. Raises AggregationError."""
        state, dealing = self._deal(self._secrets.now(), read_roster(message, self._rules))
        self._secrets.keep(state)
        return dealing

    def check(self, cohort: pb.Cohort, following: pb.Roster | None = None) -> None:
        """Raises AggregationError if a contribution would be refused, before anything is computed."""
        # All that can be wrong with it is wrong with a vector of no words, whose state nobody keeps.
        state, _ = contribute(
            self._secrets.now(),
            read_cohort(cohort, self._rules),
            _NOTHING.words(np.zeros(0, np.int64)),
            number=cohort.number,
            ring=_NOTHING,
        )
        if following is not None:
            self._deal(state, read_roster(following, self._rules))

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
            self._secrets.now(),
            read_cohort(cohort, self._rules),
            words,
            number=cohort.number,
            ring=ring,
            round_number=round_number,
        )
        dealing = None
        if following is not None:
            state, dealing = self._deal(state, read_roster(following, self._rules))
        self._secrets.keep(state)
        return ring.pack(masked), dealing

    def confirm(self, number: int, survivors: Sequence[str]) -> bytes:
        """A signature under the survivors. Raises AggregationError."""
        state, signature = confirm(self._secrets.now(), survivors, number=number, identity=self._identity)
        self._secrets.keep(state)
        return signature

    def reveal(self, message: pb.Unmask) -> tuple[pb.Unmasked, int]:
        """The shares that uncover a sum, once, and the round that it was for. Raises AggregationError."""
        before = self._secrets.now()
        state, shares = reveal(
            before, message.survivors, number=message.number, signatures=read_signatures(message)
        )
        if before.holder is None:
            raise LostError(f"no shares are held here for sum {message.number}")
        self._secrets.keep(state)
        return write_shares(shares, before.holder.roster), before.holder.round

    def forget(self) -> None:
        """Forget everything: no sum of this run is to come. What was recorded of it stays closed."""
        self._secrets.forget()

    def _deal(self, state: SiteState, roster: Roster) -> tuple[SiteState, pb.Dealing]:
        state, dealing = deal(state, roster, peers=self._peers, random=os.urandom)
        return state, write_dealing(dealing)
