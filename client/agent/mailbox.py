"""A site's mailbox: which envelopes it opens, and the last answers of each run, which outlive it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.custody.outbox import run_stem
from privacy.canonical import canonical_json
from privacy.durable import make_private_folder, open_private, write_durably
from privacy.errors import ProtocolError, RunError
from privacy.identity import Identity
from protocol.messages.envelope import COORDINATOR, Header, Opened, open_envelope, seal

_MOST = 2**31 - 1
_MORE = 65_536  # bytes: a receipt and a few names
_LONGEST_RUN = 120  # letters, as in a manifest


@dataclass(frozen=True, kw_only=True)
class _Answered:
    """A request that was answered: its counter, and SHA-256 of its payload as hex."""

    run: str
    counter: int
    payload: str

    @property
    def line(self) -> bytes:
        return canonical_json({"run": self.run, "counter": self.counter, "payload": self.payload}) + b"\n"


class Mailbox:
    """Opens what the pinned coordinator sent to this site, each request in its order, and seals answers.

    ``outbox`` holds a file for each run and kind of reply: a line of canonical JSON, then the reply.
    ``clock`` is in seconds since 1970. Opening and sealing may be done on any thread, the rest on one.
    """

    def __init__(
        self,
        outbox: Path,
        *,
        site: str,
        identity: Identity,
        coordinator: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._site = site
        self._identity = identity
        self._coordinator = coordinator
        self._clock = clock

    def open_request(self, content: bytes) -> Opened:
        """Open an envelope: the signature first, then whom it is for, then its time.

        Raises SignatureError or ProtocolError; what they say is of the envelope alone.
        """
        opened = open_envelope(
            content, public_key=self._coordinator, sender=COORDINATOR, receiver=self._site
        )
        header = opened.header
        self.check_time(header)
        if not (0 <= header.counter <= _MOST and 0 <= header.round <= _MOST):
            raise ProtocolError(
                f"expected a round and a counter from 0 to {_MOST}, got {header.round} and {header.counter}"
            )
        if len(header.run) > _LONGEST_RUN:
            raise ProtocolError(
                f"expected a run's name of {_LONGEST_RUN} letters at most, got {len(header.run)}"
            )
        return opened

    def check_time(self, header: Header) -> None:
        """Raises ProtocolError if an envelope is of no use any more, or not yet."""
        header.check_time(self._clock())

    def kept(self, header: Header) -> bytes | None:
        """The reply to this request if it was answered and is kept; None if the request is new.

        A request is known by its payload: asked again under a later counter, it is the same one, and that
        counter is written down before its reply may leave. Raises ProtocolError for one that comes late,
        again or in another's place.
        """
        last = -1
        for path in sorted(self._outbox.glob(f"{run_stem(header.run)}.*")):
            with path.open("rb") as file:
                answered = _read_line(file.readline(), path)
                last = max(last, answered.counter)
                if answered.payload != header.payload:
                    continue
                reply = file.read()
            if header.counter > answered.counter:
                self.keep(header, reply, kind=path.suffix.removeprefix("."), counter=header.counter)
            return reply
        if header.counter <= last:
            raise ProtocolError(
                f"expected a counter above {last} in run {header.run}, got {header.counter}: the envelope "
                "is an old one, or came out of order"
            )
        return None

    def keep(self, header: Header, reply: bytes, *, kind: str, counter: int) -> None:
        """Write a reply down, durably, before it leaves, in the place of the run's last one of its kind.

        A coordinator that comes back joins again before it asks for the round that it lost: what was
        trained is still there then.
        """
        path = self._outbox / f"{run_stem(header.run)}.{kind}"
        if path.exists():
            with path.open("rb") as file:
                before = _read_line(file.readline(), path)
            # Asked again under an old counter, an answer must not make way for what came between.
            counter = max(counter, before.counter)
            if before.payload == header.payload and before.counter == counter:
                return
        answered = _Answered(run=header.run, counter=counter, payload=header.payload)
        make_private_folder(self._outbox)
        write_durably(path, answered.line + reply)

    def forget(self, run: str, *, kind: str) -> None:
        """Forget a run's last reply of a kind: the same request is answered anew."""
        (self._outbox / f"{run_stem(run)}.{kind}").unlink(missing_ok=True)

    def make_room(self, answer: int) -> None:
        """See that an answer of so many bytes can be kept, and a receipt and a few names beside them.

        Raises OSError if it cannot.
        """
        make_private_folder(self._outbox)
        path = self._outbox / ".room"
        try:
            with open(path, "wb", opener=open_private) as file:
                os.posix_fallocate(file.fileno(), 0, answer + _MORE)
        finally:
            path.unlink(missing_ok=True)

    def seal(self, header: Header, reply: bytes) -> bytes:
        """A reply in an envelope of its own, for the request that asked: its run, round and counter."""
        return seal(
            self._identity,
            reply,
            run=header.run,
            round_number=header.round,
            sender=self._site,
            receiver=COORDINATOR,
            counter=header.counter,
            sent=self._clock(),
            # The coordinator's own clock set this time: until then it waits.
            expires=header.expires,
        )


def _read_line(line: bytes, path: Path) -> _Answered:
    try:
        table = json.loads(line)
        return _Answered(run=table["run"], counter=table["counter"], payload=table["payload"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: put back a good copy of the outbox") from error
