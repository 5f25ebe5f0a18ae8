"""Made-up and spoilt messages, and what reads them: whatever comes in, errors are of our tree.

``Fuzzer.play`` draws an input, has it read, and says how it ended. An error that is none of ours leaves it.
"""

# ruff: noqa: S311

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.message import DecodeError, Message

from privacy.errors import ConfideError
from privacy.secagg.kept_secrets import dump_state, load_as
from privacy.secagg.masks.coordinator_steps import check_dealing, forward
from privacy.secagg.masks.site_steps import SiteState
from privacy.secagg.ring import Ring
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import (
    asked_to_evaluate,
    asked_to_train,
    read_cohort,
    read_dealing,
    read_roster,
    read_shares,
    read_signatures,
    write_cohort,
    write_dealing,
    write_roster,
    write_shares,
)
from tests.client.masked import RING, RULES, SITE, SIZE, Federation, make_federation, unmask_request

# What is put in the place of a leaf of a state.
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**64,
    10**400,
    1.5,
    float("nan"),
    "",
    "zz",
    "é",
    "00",
    "ff" * 32,
    [],
    [[]],
    {},
    {"site": 1},
]


def allowed_bytes(content: bytes) -> int:
    """What reading an input may hold in memory at once.

    A character of JSON may be a list: 56 bytes, and eight for its place. Masking works in two blocks of
    128 KiB, whatever it masks; a third is for what a session of four sites holds besides.
    """
    return 64 * len(content) + 3 * (1 << 17)


class Fuzzer:
    """A site in the middle of two sums, its coordinator, and all that they would say to each other."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        federation = make_federation()
        first, second = federation.roster(1), federation.roster(2)
        cohorts = forward(first, federation.deal(first))
        following = {}
        for site in first.places:
            _, following[site] = federation.contribute(site, cohorts[site], 1, following=second)
        self._roster, self._session = second, federation.sessions[SITE]
        self._state = self._session._secrets.now()
        dealings = {site: dealing for site, dealing in following.items() if dealing is not None}
        self._requests = _requests(federation, first, cohorts, forward(second, dealings))
        held = {site: bytes(32) for site in second.places}
        self._replies: list[Message] = [
            pb.Reply(site=SITE, dealing=write_dealing(dealings[SITE])),
            pb.Reply(
                site=SITE, trained=pb.Trained(update=bytes(2 * SIZE), next=write_dealing(dealings[SITE]))
            ),
            pb.Reply(site=SITE, unmasked=write_shares(held, second)),
            pb.Reply(site=SITE, confirmed=pb.Confirmed(signature=bytes(64))),
        ]
        self._content = dump_state(self._state)
        self._readers: dict[str, tuple[Callable[[], bytes], Callable[[bytes], None]]] = {
            "request": (lambda: self._spoilt(self._requests), self._read_request),
            "reply": (lambda: self._spoilt(self._replies), self._read_reply),
            "state": (self._spoilt_state, self._read_state),
            "words": (lambda: self._noise(2 * SIZE + 2), self._read_words),
        }

    def draw(self) -> tuple[str, bytes]:
        """Which reader, and an input for it."""
        name = self._random.choice(list(self._readers))
        return name, self._readers[name][0]()

    def read(self, name: str, content: bytes) -> str:
        """Say "read", or the kind of error that it was refused with. Any that is not ours is raised."""
        self._session._secrets.keep(self._state)
        try:
            self._readers[name][1](content)
        except (ConfideError, DecodeError) as error:
            return type(error).__name__
        return "read"

    def _read_request(self, content: bytes) -> None:
        request, session = pb.Request.FromString(content), self._session
        kind = request.WhichOneof("kind")
        if kind == "deal":
            read_roster(request.deal.roster, RULES)
            session.deal(request.deal.roster)
        elif kind in ("train", "evaluate"):
            if kind == "train":
                cohort, asked = request.train.cohort, asked_to_train(request.train)
            else:
                cohort, asked = request.evaluate.cohort, asked_to_evaluate(request.evaluate)
            read_cohort(cohort, RULES, asked=asked)
            following = request.train.next if request.train.HasField("next") else None
            session.check(cohort, asked=asked, round_number=request.train.round, following=following)
        elif kind == "confirm":
            session.confirm(request.confirm)
        elif kind == "unmask":
            read_signatures(request.unmask)
            session.reveal(request.unmask)

    def _read_reply(self, content: bytes) -> None:
        reply = pb.Reply.FromString(content)
        if reply.HasField("dealing"):
            check_dealing(self._roster, read_dealing(SITE, reply.dealing))
        elif reply.HasField("trained"):
            RING.unpack(reply.trained.update, size=SIZE)
            check_dealing(self._roster, read_dealing(SITE, reply.trained.next))
        elif reply.HasField("unmasked"):
            read_shares(reply.unmasked, self._roster)

    def _read_state(self, content: bytes) -> None:
        state = load_as(SiteState, content)
        dump_state(state)  # what can be read can be kept again
        # And a site that has it refuses what it cannot do any more, in words.
        self._session._secrets.keep(state)
        self._session.join()
        self._read_request(self._random.choice(self._requests).SerializeToString())

    def _read_words(self, content: bytes) -> None:
        bits = self._random.choice([16, 20, 32, 64])
        ring, size = Ring(bits), self._random.choice([0, 1, SIZE, 2**40])
        words = ring.unpack(content, size=size)
        if ring.reduced(words).tolist() != words.tolist() or len(words) != size:
            raise RuntimeError(f"{len(words)} words of {size} that are not reduced")

    # How inputs are made.

    def _spoilt(self, whole: list[Message]) -> bytes:
        chosen = self._random.choice(whole)
        if self._random.random() < 0.6:
            message = type(chosen)()
            message.CopyFrom(chosen)
            for _ in range(self._random.randint(1, 2)):
                self._change(message)
            return message.SerializeToString()
        return self._mutated(chosen.SerializeToString(), self._random.choice(whole).SerializeToString())

    def _change(self, message: Message) -> None:
        """Change one field somewhere inside a message."""
        random, fields = self._random, message.ListFields()
        if not fields:
            return
        field, value = random.choice(fields)
        repeated = field.label == field.LABEL_REPEATED
        if field.message_type is not None:
            if repeated and random.random() < 0.3:
                self._rearrange(value)
            elif len(value) if repeated else True:
                self._change(random.choice(value) if repeated else value)
            return
        if repeated:
            self._rearrange(value)
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, random.choice([b"", self._noise(96), self._mutated(value, value)]))
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, random.choice(["", "site-00", SITE, "site-03", "\0", "x" * 300]))
        elif field.type == field.TYPE_DOUBLE:
            setattr(message, field.name, random.choice([0.0, -1.0, float("nan"), float("inf"), 1e308]))
        else:
            setattr(message, field.name, random.choice([0, 1, 2, 3, 2**31, 2**32 - 1]))

    def _rearrange(self, values: Any) -> None:
        """A repeated field with an element more, fewer, or elsewhere."""
        kept = list(values)
        where = self._random.randrange(len(kept) + 1)
        extra = [self._random.choice(kept)] * self._random.choice([1, 1, 50]) if kept else []
        kept = self._random.choice([kept[:where], kept[::-1], kept[:where] + extra + kept[where:]])
        del values[:]
        values.extend(kept)

    def _spoilt_state(self) -> bytes:
        if self._random.random() < 0.4:
            return self._mutated(self._content, self._content)
        table = json.loads(self._content)
        inner = table
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = self._random.choice(keys)
            if isinstance(inner[key], dict | list) and self._random.random() < 0.8:
                inner = inner[key]
                continue
            inner[key] = self._random.choice(ODD)
            break
        return json.dumps(table).encode()

    def _mutated(self, content: bytes, other: bytes) -> bytes:
        random, made = self._random, bytearray(content)
        for _ in range(random.choice([1, 1, 2, 8])):
            start, end = sorted(random.randrange(len(made) + 1) for _ in range(2))
            match random.randrange(6):
                case 0 if made:
                    made[random.randrange(len(made))] ^= 1 << random.randrange(8)
                case 1:
                    del made[start:end]
                case 2:
                    made[start:start] = self._noise(8)
                case 3 if len(made) < 1 << 16:
                    made[end:end] = made[start:end]
                case 4:
                    made[start:] = other[start:]
                case 5 if made:
                    made[random.randrange(len(made))] = random.choice(b'\x00\xff\x7f\x80[{"0')
        return bytes(made)

    def _noise(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, most))


def _requests(federation: Federation, first: Any, cohorts: Any, later: Any) -> list[Message]:
    digest, survivors = RULES.manifest, list(first.places)
    train = pb.Train(manifest_digest=digest, round=1, noise_std=1.0)
    train.cohort.CopyFrom(write_cohort(later[SITE], number=2))
    train.next.CopyFrom(write_roster(federation.roster(3)))
    unmask = unmask_request(first, cohorts[SITE], survivors)
    unmask.manifest_digest = digest
    return [
        pb.Request(deal=pb.Deal(manifest_digest=digest, roster=write_roster(federation.roster(3)))),
        pb.Request(train=train),
        pb.Request(evaluate=pb.Evaluate(manifest_digest=digest, cohort=train.cohort)),
        pb.Request(confirm=pb.Confirm(manifest_digest=digest, number=1, survivors=survivors)),
        pb.Request(unmask=unmask),
    ]
