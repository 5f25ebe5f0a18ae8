"""Four sites whose sums are homomorphic: their sessions, and requests as a coordinator makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from client.sums.homomorphic_session import HomomorphicSession
from privacy.identity import Identity
from privacy.secagg.ckks.ciphertexts import Parameters
from privacy.secagg.ckks.homomorphic_sum import content_digest
from privacy.secagg.ckks.shared_key import forward_key, told_of_key
from privacy.secagg.roster import Cohort, Dealing, Member, Roster
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import from_bytes
from protocol.sums.ciphertext_messages import read_key_dealing
from protocol.sums.mask_messages import make_rules, write_cohort, write_roster
from protocol.sums.update_encoding import update_reach
from tests.server.runs import LAYOUT, make_job

SITES = ("east", "north", "south", "west")
SIZE = LAYOUT.update_size


@cache
def identity(site: str) -> Identity:
    return Identity.generate()


PEERS = {site: identity(site).public for site in SITES}
# Four sites, of which three make a sum, and three sign for one.
MANIFEST = Manifest(
    run="run",
    job=make_job(
        aggregation={"kind": "homomorphic"}, federation={"min_sites": 3}, strategy={"name": "ffa"}
    ),
    cohort=4,
    labels=("bad", "good"),
    model_digest="ab" * 32,
    layout_digest=LAYOUT.digest,
)
RULES = make_rules(MANIFEST)
REACH = update_reach(MANIFEST.job)
# Each update is rounded to multiples of reach / steps, so it is off by half of one at most; so is a mean.
ERROR = REACH / Parameters(sites=4).steps / 2
UPDATES = {
    site: np.random.default_rng(place).normal(0.0, REACH / 4, SIZE).clip(-REACH, REACH).astype(np.float32)
    for place, site in enumerate(SITES)
}


def make_session(site: str, path: Path | None = None) -> HomomorphicSession:
    return HomomorphicSession(
        site=site,
        rules=RULES,
        identity=identity(site),
        peers=PEERS,
        path=path,
    )


class Encrypting:
    """The sites of one run that have joined; their secrets are in ``folder``, or in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.sessions: dict[str, HomomorphicSession] = {}
        self.members: dict[str, Member] = {}
        self.restart()

    def restart(self) -> None:
        """All processes die, and come back with what is on the disk."""
        for site in SITES:
            path = None if self.folder is None else self.folder / site / "secrets" / "run.json"
            self.sessions[site] = make_session(site, path)
            self.members[site] = self.sessions[site].join()

    def roster(self, number: int = 1, sites: Iterable[str] = SITES) -> Roster:
        members = tuple(self.members[site] for site in sorted(sites))
        return Roster(rules=RULES, number=number, members=members)

    def dealing(self, roster: Roster, dealer: str = "east") -> Dealing:
        return read_key_dealing(dealer, self.sessions[dealer].deal(write_roster(roster)))

    def train(
        self,
        roster: Roster,
        dealing: Dealing,
        sites: Iterable[str] = SITES,
        *,
        updates: Mapping[str, np.ndarray] = UPDATES,
    ) -> dict[str, pb.Trained]:
        trained = {}
        for site in sites:
            request = train_request(roster, dealing, site)
            self.sessions[site].check(request)
            trained[site] = self.sessions[site].contribute(updates[site], request, reach=REACH)
        return trained

    def confirm(
        self, trained: Mapping[str, pb.Trained], sites: Iterable[str] | None = None, *, number: int = 1
    ) -> dict[str, bytes]:
        request = confirm_request(trained, number=number)
        return {site: self.sessions[site].confirm(request) for site in sites or trained}

    def open(self, site: str, request: pb.Open) -> np.ndarray:
        return from_bytes(
            self.sessions[site].open_sum(request, update_size=SIZE, reach=REACH).sum, size=SIZE
        )


def train_request(roster: Roster, dealing: Dealing, site: str) -> pb.Train:
    dealt = told_of_key(dealing) if site == dealing.site else forward_key(roster, dealing, site)
    cohort = write_cohort(Cohort(dealt=(dealt,)), number=roster.number)
    return pb.Train(round=1, cohort=cohort, roster=write_roster(roster))


def confirm_request(trained: Mapping[str, pb.Trained], *, number: int = 1) -> pb.Confirm:
    return pb.Confirm(
        number=number,
        survivors=list(trained),
        digests=[content_digest(answer.update) for answer in trained.values()],
    )


def open_request(
    trained: Mapping[str, pb.Trained], signatures: Mapping[str, bytes], *, number: int = 1
) -> pb.Open:
    return pb.Open(
        number=number,
        updates=[
            pb.Encrypted(site=site, update=answer.update, signature=answer.signature)
            for site, answer in trained.items()
        ],
        signatures=[pb.Signed(site=site, signature=one) for site, one in signatures.items()],
    )


def plain_sum(sites: Iterable[str] = SITES) -> np.ndarray:
    return np.sum([UPDATES[site] for site in sites], axis=0, dtype=np.float64)
