"""Masked sessions for tests, and a coordinator that looks at all that leaves them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from client.sums import masked_session
from client.sums.masked_session import MaskedSession
from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Member, Roster, Rules
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import (
    asked_to_evaluate,
    asked_to_train,
    read_cohort,
    read_dealing,
    read_shares,
    write_cohort,
    write_roster,
)
from tests.privacy.exchanges import forge_signature, identity_of, make_rules, names, peers_of

COUNT, SIZE, RING = 4, 5, Ring(16)
RULES = make_rules(COUNT)
SITE = names(COUNT)[1]
ASKED = bytes(range(32))  # a digest of what sites are asked to contribute


def asked_for(request: pb.Train | pb.Evaluate) -> bytes:
    return asked_to_train(request) if isinstance(request, pb.Train) else asked_to_evaluate(request)


def unbind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites whose masks are not bound to what they are asked for."""

    def read(message: pb.Cohort, rules: Rules, *, asked: bytes) -> Cohort:
        return read_cohort(message, rules, asked=b"")

    monkeypatch.setattr(masked_session, "read_cohort", read)


def make_session(
    site: str = SITE,
    *,
    rules: Rules = RULES,
    path: Path | None = None,
    peers: Mapping[str, bytes] | None = None,
) -> MaskedSession:
    return MaskedSession(
        site=site,
        rules=rules,
        identity=identity_of(site),
        peers=peers_of(rules.cohort) if peers is None else peers,
        path=path,
    )


def vector(site: str, number: int = 1, *, salt: int = 0, ring: Ring = RING) -> Words:
    seed = [number, salt, *site.encode()]
    return ring.words(np.random.default_rng(seed).integers(0, 1 << ring.bits, SIZE))


@dataclass
class Left:
    """What has left sites. ``broken`` says where two things did of which one alone may."""

    vectors: dict[bytes, bytes] = field(default_factory=dict)
    secrets: dict[tuple[str, bytes], str] = field(default_factory=dict)
    lists: dict[tuple[str, bytes], tuple[str, ...]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def masked(self, site: str, cohort: Cohort, words: bytes) -> None:
        """A masked vector, known by the dealing whose masks are on it."""
        if self.vectors.setdefault(cohort.of(site).key, words) != words:
            self.broken.append(f"{site} masked two vectors under one dealing")

    def confirmed(self, site: str, cohort: Cohort, survivors: Sequence[str]) -> None:
        key = cohort.of(site).key
        if self.lists.setdefault((site, key), tuple(survivors)) != tuple(survivors):
            self.broken.append(f"{site} signed two lists of survivors")

    def revealed(
        self, holder: str, cohort: Cohort, survivors: Iterable[str], shares: Mapping[str, bytes]
    ) -> None:
        alive = set(survivors)
        for site in shares:
            which = "seed" if site in alive else "key"
            if self.secrets.setdefault((holder, cohort.of(site).key), which) != which:
                self.broken.append(f"{holder} revealed both secrets of a dealing of {site}")


class Federation:
    """Sessions by site, as a coordinator sees them that can have anything signed."""

    def __init__(self, sessions: Mapping[str, MaskedSession], rules: Rules = RULES) -> None:
        self.rules = rules
        self.sessions = dict(sessions)
        self.members: dict[str, Member] = {site: one.join() for site, one in self.sessions.items()}
        self.left = Left()

    def roster(self, number: int = 1, sites: Iterable[str] | None = None) -> Roster:
        chosen = sorted(self.members if sites is None else sites)
        members = tuple(self.members[site] for site in chosen)
        return Roster(rules=self.rules, number=number, members=members)

    def deal(self, roster: Roster, sites: Iterable[str] | None = None) -> dict[str, Dealing]:
        asked = roster.places if sites is None else sites
        message = write_roster(roster)
        return {site: read_dealing(site, self.sessions[site].deal(message)) for site in asked}

    def contribute(
        self, site: str, cohort: Cohort, number: int, *, salt: int = 0, following: Roster | None = None
    ) -> tuple[Words, Dealing | None]:
        words, dealing = self.sessions[site].contribute(
            write_cohort(cohort, number=number),
            vector(site, number, salt=salt),
            asked=cohort.asked,
            ring=RING,
            round_number=number,
            following=None if following is None else write_roster(following),
        )
        self.left.masked(site, cohort, words)
        return RING.unpack(words, size=SIZE), dealing and read_dealing(site, dealing)

    def confirm(self, site: str, roster: Roster, cohort: Cohort, survivors: Sequence[str]) -> None:
        self.sessions[site].confirm(listed(survivors, roster.number))
        self.left.confirmed(site, cohort, survivors)

    def reveal(
        self, site: str, roster: Roster, cohort: Cohort, survivors: Sequence[str]
    ) -> dict[str, bytes]:
        """Confirm and reveal, whatever the others said: who colludes signs anything."""
        if self.rules.confirm:
            self.confirm(site, roster, cohort, survivors)
        message, _ = self.sessions[site].reveal(unmask_request(roster, cohort, survivors))
        shares = read_shares(message, roster)
        self.left.revealed(site, cohort, survivors, shares)
        return shares


def listed(survivors: Sequence[str], number: int = 1) -> pb.Confirm:
    """The request to confirm a sum of these."""
    return pb.Confirm(number=number, survivors=survivors)


def unmask_request(roster: Roster, cohort: Cohort, survivors: Sequence[str]) -> pb.Unmask:
    digest = cohort.digest(roster)
    signatures = [pb.Signed(site=s, signature=forge_signature(s, digest, survivors)) for s in survivors]
    return pb.Unmask(number=roster.number, survivors=survivors, signatures=signatures)


def make_federation(path: Path | None = None, rules: Rules = RULES) -> Federation:
    """All sites of a run, one of which keeps its secrets in a file."""
    sites = names(rules.cohort)
    return Federation(
        {site: make_session(site, rules=rules, path=path if site == SITE else None) for site in sites},
        rules,
    )


def dealt(federation: Federation, number: int = 1) -> tuple[Roster, dict[str, Cohort]]:
    roster = federation.roster(number)
    return roster, forward(roster, federation.deal(roster), asked=ASKED)


def contributed(
    federation: Federation, number: int = 1
) -> tuple[Roster, dict[str, Cohort], dict[str, Words]]:
    roster, cohorts = dealt(federation, number)
    return roster, cohorts, {s: federation.contribute(s, cohorts[s], number)[0] for s in cohorts}


def uncovered(
    roster: Roster,
    cohort: Cohort,
    masked: Mapping[str, Words],
    survivors: Sequence[str],
    shares: Mapping[str, Mapping[str, bytes]],
) -> Words:
    total = add_up([masked[site] for site in survivors], ring=RING, size=SIZE)
    return unmask(total, ring=RING, roster=roster, cohort=cohort, survivors=survivors, shares=shares)


def plain_sum(survivors: Iterable[str], number: int = 1) -> Words:
    return add_up([vector(site, number) for site in survivors], ring=RING, size=SIZE)
