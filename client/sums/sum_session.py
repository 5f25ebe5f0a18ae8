"""What a site's parts in sums of either kind have in common: who it is, whom it knows, what it keeps."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

from client.sums.run_secrets import RunSecrets
from privacy.errors import ProtocolError
from privacy.identity import Identity
from privacy.secagg.kept_secrets import State
from privacy.secagg.roster import Member, Rules
from privacy.secagg.sealing import PairKeys
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import make_rules


@dataclass(frozen=True, kw_only=True)
class Party:
    """Who a site is among those that it sums with.

    ``peers`` gives the identities of all sites by name, this one's among them; ``secrets`` is the file for
    the run's secrets, None to keep them in memory alone. Simulated sites share ``pairs``.
    """

    site: str
    identity: Identity
    peers: Callable[[], Mapping[str, bytes]]
    secrets: Path | None
    pairs: PairKeys | None = None


class SumSession(ABC, Generic[State]):
    """The secrets of one run at one site, in ``path``, or in memory alone where it is None.

    Kept in memory they are lost with the process, and the site joins again. ``peers`` are the identities
    of all sites that are known here. Whatever a method gives back may leave: the state that goes with it is
    durable then. A state that was put back from a copy could give away single updates: nothing may copy
    the file.
    """

    _kind: ClassVar[type]
    _begin: ClassVar[Callable[..., tuple[Any, Member]]]
    _advertise: ClassVar[Callable[..., Member]]

    def __init__(
        self,
        *,
        site: str,
        rules: Rules,
        identity: Identity,
        peers: Mapping[str, bytes],
        path: Path | None,
        pairs: PairKeys | None = None,
    ) -> None:
        self._site = site
        self._rules = rules
        self._identity = identity
        self._peers = peers
        self._pairs = pairs
        self._secrets: RunSecrets[State] = RunSecrets(
            self._kind, site=site, manifest=rules.manifest, path=path
        )

    @classmethod
    def for_party(cls, manifest: Manifest, party: Party) -> Self:
        """A party's session of a run.

        Raises ProtocolError if the site is not known among its peers, or by another identity.
        """
        peers = party.peers()
        if party.site not in peers:
            raise ProtocolError(
                "this site is not among those in its own peers.toml: its custodian puts the federation's "
                "new one in its home"
            )
        if peers[party.site] != party.identity.public:
            raise ProtocolError(
                "peers.toml has another key for this site than its own identity.key: its custodian puts "
                "the federation's new peers.toml in its home"
            )
        return cls(
            site=party.site,
            rules=make_rules(manifest),
            identity=party.identity,
            peers=peers,
            path=party.secrets,
            pairs=party.pairs,
        )

    def join(self) -> Member:
        """The session's public key, signed; a session that is there already stays."""
        state = self._secrets.find()
        if state is None:
            state, member = self._begin(
                self._site, self._rules.manifest, identity=self._identity, random=os.urandom
            )
            self._secrets.keep(state)
            return member
        return self._advertise(state, identity=self._identity)

    @abstractmethod
    def deal(self, message: pb.Roster) -> pb.Dealing:
        """What the others in a roster need of this site beforehand, sealed. Raises AggregationError."""

    @abstractmethod
    def confirm(self, message: pb.Confirm) -> bytes:
        """A signature under the survivors of a sum. Raises AggregationError."""

    def know_peers(self, peers: Mapping[str, bytes]) -> None:
        """Take these identities for the sites' from here on: the custodian may have changed them."""
        self._peers = peers

    def forget(self) -> None:
        """Forget everything: no sum of this run is to come. What was recorded of it stays closed."""
        self._secrets.forget()
