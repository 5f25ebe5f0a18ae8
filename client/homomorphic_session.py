"""A site's part in a run's homomorphic sums: what it keeps secret, written down before anything leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.run_secrets import RunSecrets
from privacy.homomorphic_sum import (
    KeyState,
    advertise_session,
    begin_session,
    confirm,
    contribute,
    deal,
    open_contributions,
    take_key,
)
from privacy.identity import Identity
from privacy.roster import Member, Rules, check_sites
from protocol import confide_pb2 as pb
from protocol.homomorphic_sums import read_contribution, read_digests, read_key_dealt
from protocol.sums import read_roster, read_signatures, write_dealing
from protocol.vector import to_bytes


class HomomorphicSession:
    """The secrets of one run at one site, in ``path``, or in memory alone where it is None.

    Kept in memory they are lost with the process, and the site joins again. ``peers`` are the identities
    of all sites that are known here: they, and no others, get the key. ``update_size`` and ``reach`` are
    the run's. Whatever a method gives back may leave: the state that goes with it is durable then. A state
    that was put back from a copy could open twice: nothing may copy the file.
    """

    def __init__(
        self,
        *,
        site: str,
        rules: Rules,
        identity: Identity,
        peers: Mapping[str, bytes],
        path: Path | None,
        update_size: int,
        reach: float,
    ) -> None:
        self._site = site
        self._rules = rules
        self._identity = identity
        self._peers = peers
        self._size = update_size
        self._reach = reach
        self._secrets = RunSecrets(KeyState, site=site, manifest=rules.manifest, path=path)

    def join(self) -> Member:
        """The session's public key, signed; a session that is there already stays."""
        state = self._secrets.find()
        if state is None:
            state, member = begin_session(
                self._site, self._rules.manifest, identity=self._identity, random=os.urandom
            )
            self._secrets.keep(state)
            return member
        return advertise_session(state, identity=self._identity)

    def deal(self, message: pb.Roster) -> pb.Dealing:
        """Seal the sites' key for all others in a roster; make it if there is none here.

        Raises AggregationError.
        """
        roster = read_roster(message, self._rules)
        state, dealing = deal(self._secrets.now(), roster, peers=self._peers, random=os.urandom)
        self._secrets.keep(state)
        return write_dealing(dealing)

    def check(self, request: pb.Train) -> None:
        """Raises AggregationError if a contribution would be refused, before anything is computed."""
        roster, dealt = read_roster(request.roster, self._rules), read_key_dealt(request.cohort)
        take_key(self._secrets.now(), roster, dealt, peers=self._peers)

    def contribute(self, update: NDArray[np.float32], request: pb.Train) -> pb.Trained:
        """An update as ciphertexts, signed, once a number. Raises AggregationError."""
        state, contribution = contribute(
            self._secrets.now(),
            read_roster(request.roster, self._rules),
            read_key_dealt(request.cohort),
            update,
            reach=self._reach,
            peers=self._peers,
            identity=self._identity,
        )
        self._secrets.keep(state)
        return pb.Trained(
            round=request.round, update=contribution.content, signature=contribution.signature
        )

    def confirm(self, message: pb.Confirm) -> bytes:
        """A signature under who has answered what. Raises AggregationError."""
        check_sites(message.survivors)
        state, signature = confirm(
            self._secrets.now(), read_digests(message), number=message.number, identity=self._identity
        )
        self._secrets.keep(state)
        return signature

    def forget(self) -> None:
        """Forget everything, the sites' key with it: no sum of this run is to come."""
        self._secrets.forget()

    def open(self, message: pb.Open) -> pb.Opened:
        """The sum of the ciphertexts that were confirmed here, once. Raises AggregationError."""
        contributions = [read_contribution(one, update_size=self._size) for one in message.updates]
        state, opened = open_contributions(
            self._secrets.now(),
            contributions,
            number=message.number,
            signatures=read_signatures(message),
            size=self._size,
            reach=self._reach,
        )
        self._secrets.keep(state)
        return pb.Opened(sum=to_bytes(opened))
