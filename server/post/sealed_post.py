"""The post of a real federation: signed envelopes over Flower, to sites that come and go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from flwr.app import Message, MessageType

from privacy.errors import ConfideError, ProtocolError
from privacy.identity import Identity
from protocol.messages.confide_pb2 import Reply, Request
from protocol.messages.envelope import COORDINATOR, open_envelope, seal
from protocol.messages.flower import unwrap, wrap
from server.post.letters import Letter, Letters
from server.post.post import (
    Exchange,
    Longest,
    Take,
    any_length,
    check_answers,
    check_length,
    keep_all,
    read_reply,
    refusal,
)
from server.post.prompt_grid import TOO_LONG, MessageGrid

# Seconds between two looks for answers. Each costs the SuperLink, on the same machine, a few milliseconds:
# after a long silence an answer is found late by a thirtieth of it.
_POLL, _LONGEST_POLL, _SHARE = 0.05, 1.0, 30
_ROLL_CALL = 2.0  # seconds between two looks at who is connected
_GRACE = 30.0  # seconds that Flower keeps a message beyond its deadline: else it reports it as a failure
_MOST_SENT = 64  # messages that are sent before answers are looked for
_MOST_BYTES = 64_000_000  # that they hold, but for the last one

log = logging.getLogger("confide.post")


@dataclass(frozen=True, kw_only=True)
class Member:
    """What the coordinator knows a site by: its Ed25519 ``identity``, and its SuperNode's ``node`` key.

    Both are public. ``identity`` is bytes[32]; ``node`` is in DER (SubjectPublicKeyInfo, RFC 5280).
    """

    identity: bytes
    node: bytes


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Where time comes from: seconds that only grow, seconds since 1970, and a pause."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep


class SealedPost:
    """Reaches sites by name over Flower's Grid, each by its pinned keys.

    A request is sent again, as it was, when Flower says that it failed, and when the
    site's SuperNode was started anew, which loses what the old one had taken: a site that has the
    request already answers it once. ``take_counter`` gives a number that no request of the run had before;
    ``tell`` hears who is waited for, whenever that changes.
    """

    def __init__(
        self,
        grid: MessageGrid,
        *,
        run: str,
        identity: Identity,
        members: Mapping[str, Member],
        take_counter: Callable[[], int],
        tell: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        self._grid = grid
        self._run = run
        self._identity = identity
        self._members = members
        self._take_counter = take_counter
        self._tell = tell
        self._told = ""
        self._clock = clock or Clock()
        self._nodes: dict[str, tuple[int, str]] = {}
        self._next_roll_call = 0.0

    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self._members))

    def ask(
        self,
        requests: Mapping[str, Request],
        *,
        round_number: int,
        min_survivors: int,
        seconds: float,
        enough: int | None = None,
        side_requests: Mapping[str, Request] | None = None,
        take: Take = keep_all,
        longest: Longest = any_length,
    ) -> Exchange:
        heard = self._clock.monotonic()
        end = heard + seconds
        sent = self._clock.now()
        exchange = Letters(
            counter=self._take_counter(),
            number=round_number,
            sent=sent,
            expires=sent + seconds,
            take=take,
            longest=longest,
        )
        for some in (requests, side_requests or {}):
            exchange.by_site |= {site: Letter(request=partial(some.__getitem__, site)) for site in some}
        while True:
            now = self._clock.monotonic()
            self._call_the_roll(now)
            self._send(exchange, now, seconds=end - now)
            if self._collect(exchange):
                heard = now
            self._say(exchange, requests)
            if now >= end or self._settled(exchange, requests, min_survivors=min_survivors, enough=enough):
                return exchange.outcome(awaited=set(requests))
            due = [letter.due - now for letter in exchange.by_site.values() if letter.due > now]
            most = min(_LONGEST_POLL, end - now, *due)
            self._clock.pause(max(min((now - heard) / _SHARE, most), _POLL))

    def _seal(self, exchange: Letters, site: str, letter: Letter) -> bytes:
        request = letter.request()
        letter.kind = str(request.WhichOneof("kind"))
        payload = request.SerializeToString()
        del request
        return seal(
            self._identity,
            payload,
            run=self._run,
            round_number=exchange.number,
            sender=COORDINATOR,
            receiver=site,
            counter=exchange.counter,
            sent=exchange.sent,
            expires=exchange.expires,
        )

    def _call_the_roll(self, now: float) -> None:
        """See which sites are connected, and since when."""
        if now < self._next_roll_call:
            return
        self._next_roll_call = now + _ROLL_CALL
        keys = {member.node: site for site, member in self._members.items()}
        self._nodes = {}
        for node in self._grid.get_nodes():
            key = _der(node.public_key)
            site = None if key is None else keys.get(key)
            if site is not None:
                self._nodes[site] = (node.node_id, node.last_activated_at)

    def _send(self, exchange: Letters, now: float, *, seconds: float) -> None:
        """Send what is due, in one go; of a great deal, a part, so that answers are not kept waiting."""
        due: list[tuple[str, Letter, int]] = []
        messages: list[Message] = []
        count = 0
        for site, letter in exchange.by_site.items():
            if len(due) == _MOST_SENT or count >= _MOST_BYTES:
                break
            if letter.open and site in self._nodes and self._is_due(site, letter, now):
                content = self._seal(exchange, site, letter)
                count += len(content)
                due.append((site, letter, len(content)))
                node = self._nodes[site][0]
                messages.append(Message(wrap(content), node, MessageType.TRAIN, ttl=seconds + _GRACE))
        if not due:
            return
        identifiers = list(self._grid.push_messages(messages))
        for (site, letter, size), identifier in zip_longest(due, identifiers[: len(due)]):
            if not identifier:
                letter.fail("Flower did not take the message", now)
                continue
            letter.message, letter.activation, letter.asked = identifier, self._nodes[site][1], now
            letter.sent += size
            letter.why = "it is connected and has not answered"

    def _is_due(self, site: str, letter: Letter, now: float) -> bool:
        if letter.message is None:
            return now >= letter.due
        lost = letter.activation != self._nodes[site][1] and now >= letter.due
        if lost:
            log.warning("%s connected anew: its request is sent again", site)
        return lost

    def _collect(self, exchange: Letters) -> bool:
        """Take the answers that are there; whether there were any."""
        waiting = {letter.message: site for site, letter in exchange.by_site.items() if letter.message}
        if not waiting:
            return False
        longest = {
            letter.message: exchange.longest(letter.kind)
            for letter in exchange.by_site.values()
            if letter.message
        }
        found = False
        for answer in self._grid.pull_messages(longest):
            found = True
            message = answer.metadata.reply_to_message_id
            site = waiting.get(message)
            if site is None or exchange.by_site[site].message != message:  # nobody's, or a second one
                continue
            letter = exchange.by_site[site]
            letter.message = None
            try:
                self._read(exchange, site, letter, answer)
            except ConfideError as error:
                log.warning("%s: %s", site, error)
                letter.fail(str(error), self._clock.monotonic())
            else:
                seconds = self._clock.monotonic() - letter.asked
                text = "round %d: %s answered request %d after %.2f s"
                log.info(text, exchange.number, site, exchange.counter, seconds)
        return found

    def _read(self, exchange: Letters, site: str, letter: Letter, answer: Message) -> None:
        """Take an answer. Raises ProtocolError for anything that the site did not sign as this answer."""
        if answer.has_error():
            reason = answer.error.reason or "no reason given"
            if reason.startswith(TOO_LONG):  # as often as it is asked
                letter.error = ProtocolError(f"{site}: {reason}")
                return
            raise ProtocolError(f"its relay failed: {reason}")
        if not answer.has_content():
            raise ProtocolError("its relay sent nothing")
        content = unwrap(answer.content)
        size = len(content)
        letter.received += size
        reply = self._open(exchange, site, content)
        del content  # an update may be most of what there is in memory
        letter.error = refusal(reply)
        if letter.error is not None:
            return
        check_answers(letter.kind, reply)
        try:
            check_length(site, letter.kind, size, exchange.longest(letter.kind))
            letter.answer = exchange.take(site, reply)
        except ProtocolError as error:
            letter.error = error

    def _open(self, exchange: Letters, site: str, content: bytes) -> Reply:
        """What a site signed as the answer to this exchange's request. Raises ProtocolError."""
        member = self._members.get(site)
        if member is None:
            raise ProtocolError("it was revoked")
        key = member.identity
        opened = open_envelope(content, public_key=key, sender=site, receiver=COORDINATOR)
        header = opened.header
        if (header.run, header.round, header.counter) != (self._run, exchange.number, exchange.counter):
            raise ProtocolError(
                f"it answered request {header.counter} of round {header.round} of run {header.run} instead "
                f"of request {exchange.counter} of round {exchange.number}"
            )
        if header.expires != exchange.expires:
            raise ProtocolError("it answered a request of this number that was made another time")
        reply = read_reply(opened.payload)
        if reply.site != site:
            raise ProtocolError(f"it calls itself {reply.site}")
        if reply.HasField("joined") and reply.joined.public_key != key:
            raise ProtocolError("it means to sign its receipts with another key than the one pinned for it")
        return reply

    def _say(self, exchange: Letters, requests: Iterable[str]) -> None:
        missing = [site for site in requests if exchange.by_site[site].open]
        away = [site for site in missing if site not in self._nodes]
        waited = ", ".join(f"{site} (not connected)" if site in away else site for site in sorted(missing))
        text = f"waiting for {waited}" if waited else ""
        if text != self._told:
            self._tell(text)
            self._told = text

    def _settled(
        self, exchange: Letters, requests: Iterable[str], *, min_survivors: int, enough: int | None
    ) -> bool:
        """Whether there is nobody left to wait for."""
        open_sites = [site for site in requests if exchange.by_site[site].open]
        answered = sum(exchange.by_site[site].answer is not None for site in requests)
        if not open_sites or (enough is not None and answered >= enough):
            return True
        return answered >= min_survivors and not any(site in self._nodes for site in open_sites)


def _der(pem: bytes) -> bytes | None:
    """A public key as Flower keeps it, PEM, in DER; None for something else."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
