"""A site's part in a run's homomorphic sums: what it keeps secret, written down before anything leaves."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from client.sums.sum_session import SumSession
from privacy.secagg.ckks.homomorphic_sum import (
    KeyState,
    advertise_session,
    begin_session,
    confirm,
    contribute,
    deal,
    open_contributions,
    take_key,
)
from privacy.secagg.roster import check_sites
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from protocol.sums.ciphertext_messages import read_contribution, read_digests, read_key_dealt
from protocol.sums.mask_messages import asked_to_train, read_roster, read_signatures, write_dealing


class HomomorphicSession(SumSession[KeyState]):
    """A site's part in one run's homomorphic sums. Its peers, and no others, get the sites' key."""

    _kind = KeyState
    _begin = staticmethod(begin_session)
    _advertise = staticmethod(advertise_session)

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

    def contribute(self, update: NDArray[np.float32], request: pb.Train, *, reach: float) -> pb.Trained:
        """An update, cut to ``reach``, as ciphertexts, signed, once a number. Raises AggregationError."""
        state, contribution = contribute(
            self._secrets.now(),
            read_roster(request.roster, self._rules),
            read_key_dealt(request.cohort),
            update,
            asked=asked_to_train(request),
            reach=reach,
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

    def open_sum(self, message: pb.Open, *, update_size: int, reach: float) -> pb.Opened:
        """The sum of the ciphertexts that were confirmed here, once. Raises AggregationError."""
        contributions = [read_contribution(one, update_size=update_size) for one in message.updates]
        state, opened = open_contributions(
            self._secrets.now(),
            contributions,
            number=message.number,
            signatures=read_signatures(message),
            size=update_size,
            reach=reach,
        )
        self._secrets.keep(state)
        return pb.Opened(sum=to_bytes(opened))
