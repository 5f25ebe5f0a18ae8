"""A home in use: what every request to a site goes through, whatever it asks for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from client.custody.admission import check_header
from client.custody.home import Home
from client.custody.policy import Policy
from client.host import LocalData
from client.refusal import log_refusal
from privacy.errors import ConfideError, ProtocolError
from privacy.identity import Identity
from privacy.ledger.ledger import Ledger
from privacy.ledger.receipt import Receipt, sign_receipt
from protocol.job.manifest import Manifest, read_manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import Header
from protocol.messages.message_kinds import kind_of
from protocol.processes.time_spent import Part, timed


@dataclass(frozen=True, kw_only=True)
class Enquiry:
    """A request as it is admitted: the manifest that it is about, and the policy, read for it, once.

    ``join`` is the request itself where it asks to join, and ``head`` the entry that the ledger must have.
    """

    manifest: Manifest
    signature: bytes
    policy: Policy
    ledger: Ledger
    join: pb.Join | None
    head: bytes


class OpenHome:
    """One site's home, with its key and ledger open from when they are first needed.

    All that answers for a site in one process shares one: training, and statistics.
    """

    def __init__(self, home: Home, *, site: str) -> None:
        self.home = home
        self.site = site
        self._identity: Identity | None = None
        self._ledger: Ledger | None = None
        self._registered: dict[str, int] = {}

    def spent(self) -> Iterator[tuple[str, float, float]]:
        """Of each data set that a run asked for: its alias, the ε that it has lost, and its budget."""
        for alias, number in self._registered.items():
            ledger = self._ledger
            if ledger is not None:
                yield alias, ledger.epsilon(number), ledger.budget.epsilon

    def identity(self) -> Identity:
        """The site's key, read when it is first needed."""
        if self._identity is None:
            self._identity = self.home.identity()
        return self._identity

    def enquire(
        self, request: pb.Request, header: Header | None, *, held: tuple[Manifest, bytes] | None
    ) -> Enquiry:
        """What a request is about, and the policy as it says now.

        ``held`` is a manifest that is known here, with its signature. Raises ProtocolError for a run that
        was not joined or an envelope of another one, PolicyFileError, and LedgerError.
        """
        manifest, signature = self._manifest_of(request, held)
        if header is not None:
            check_header(header, request, manifest)
        policy = self.home.read_policy()
        return Enquiry(
            manifest=manifest,
            signature=signature,
            policy=policy,
            ledger=self._open_ledger(policy, header),
            join=request.join if request.HasField("join") else None,
            head=request.head,
        )

    def _manifest_of(
        self, request: pb.Request, held: tuple[Manifest, bytes] | None
    ) -> tuple[Manifest, bytes]:
        kind = kind_of(request).request
        if kind == "join":
            return read_manifest(request.join.manifest), request.join.signature
        digest = getattr(request, kind).manifest_digest
        if held is not None and held[0].digest == digest:
            return held
        kept = self.home.manifest(digest)
        if kept is None:
            raise ProtocolError("the site has not joined this run: send Join first")
        return kept

    @timed(Part.LEDGER)
    def _open_ledger(self, policy: Policy, header: Header | None) -> Ledger:
        """The site's ledger, which hears when the coordinator signed its last request."""
        if self._ledger is None:
            # Whoever asks without an envelope is in this very process, and has no other clock.
            seen = time.time() if header is None else header.sent
            self._ledger = self.home.open_ledger(self.site, self.identity(), policy=policy, seen=seen)
        if header is not None:
            self._ledger.has_seen(header.sent)
        return self._ledger

    @contextmanager
    def admitting(self, enquiry: Enquiry) -> Iterator[None]:
        """A refusal within this block is in the ledger; after it the ledger must have the enquiry's head.

        Raises LedgerError where it has not, before anything is charged or leaves.
        """
        try:
            yield
        except ConfideError as error:
            log_refusal(enquiry.ledger, enquiry.manifest, error)
            raise
        # An entry's hash is salted: who was never told it knows none.
        if enquiry.head and enquiry.join is None:
            with timed(Part.LEDGER):
                enquiry.ledger.check_holds(enquiry.head.hex())

    def register(self, ledger: Ledger, found: LocalData) -> int:
        """The number of a data set in the ledger, where it is entered if it is new."""
        if found.alias not in self._registered:
            self._registered[found.alias] = ledger.register(found.members)
        return self._registered[found.alias]

    @timed(Part.LEDGER)
    def signed(self, receipt: Receipt) -> pb.Receipt:
        """A receipt under the site's signature, as it travels."""
        signed = sign_receipt(self.identity(), receipt)
        return pb.Receipt(content=signed.content, signature=signed.signature)

    def close(self) -> None:
        """Close the ledger; what is charged is on the disk anyway."""
        if self._ledger is not None:
            self._ledger.close()
