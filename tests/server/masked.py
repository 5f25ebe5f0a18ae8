"""Scripted sites whose updates are summed under masks: their secrets are real, their training is not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.refusal import answer_or_refuse
from client.sums.masked_session import MaskedSession
from client.sums.masked_site import MaskedSite
from privacy.errors import ConfideError
from privacy.mechanisms.rng import fresh_source
from privacy.secagg.masks.site_steps import SURVIVORS_PURPOSE
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply, Request
from protocol.sums.mask_messages import METRICS_RING, asked_to_evaluate, asked_to_train, make_rules
from protocol.sums.update_encoding import make_encoding
from runs.run_folder import RunFolder
from tests.server.runs import LAYOUT
from tests.server.scripted import Act, Acts, ScriptedPost, go, identity, make_folder, run_job

SITES = ("arctic", "east", "north", "south", "west")
# Five sites: three uncover a sum, and a round needs three.
THRESHOLD = 3


def masked_folder(
    path: Path, *, min_sites: int | None = THRESHOLD, aggregation: dict[str, Any] | None = None, **how: Any
) -> RunFolder:
    job = run_job(
        min_sites=min_sites,
        aggregation={"threshold": THRESHOLD} | (aggregation or {}),
        **how,
    )
    return make_folder(path, job, cohort=len(SITES))


class MaskedPost(ScriptedPost):
    """``before_it`` names what happens to a site before it answers, by site, kind of request and round.

    ``sent`` lists each request that was answered. Sites keep their secrets in memory; after a kill of the
    coordinator they still have them, unless they are ``forgetful``.
    """

    noise_std = 0.05

    def __init__(
        self,
        folder: RunFolder,
        acts: Acts | None = None,
        sites: tuple[str, ...] = SITES,
        *,
        before: MaskedPost | None = None,
        forgetful: bool = False,
    ) -> None:
        super().__init__(folder, acts, sites, before=before)
        self.sessions = dict(before.sessions) if before and not forgetful else {}
        if forgetful:
            self.kept.clear()
        self.before_it: dict[tuple[str, str, int], Callable[[], None]] = {}
        self.sent: list[tuple[str, Request]] = []
        self.replies: list[Reply] = []

    def session(self, site: str) -> MaskedSession:
        if site not in self.sessions:
            self.sessions[site] = MaskedSession(
                site=site,
                rules=make_rules(self.manifest),
                identity=identity(site),
                peers={name: identity(name).public for name in self.names},
                path=None,
            )
        return self.sessions[site]

    def forget(self, site: str) -> None:
        """Its process was killed, and its secrets with it."""
        self.sessions.pop(site, None)
        self.kept = {key: reply for key, reply in self.kept.items() if key[0] != site}

    def answer(self, site: str, request: Request, number: int) -> Reply:
        kind = str(request.WhichOneof("kind"))
        self.before_it.get((site, kind, number), lambda: None)()
        content = answer_or_refuse(site, lambda: self.reply(site, request, number))
        self.sent.append((site, request))
        self.replies.append(Reply.FromString(content))
        return self.replies[-1]

    def reply(self, site: str, request: Request, number: int) -> Reply:
        """As ``client.site`` answers. Raises AggregationError and LostError."""
        session = self.session(site)
        kind = request.WhichOneof("kind")
        if kind == "deal":
            return Reply(site=site, dealing=session.deal(request.deal.roster))
        if kind == "confirm":
            signature = session.confirm(request.confirm)
            return Reply(site=site, confirmed=pb.Confirmed(signature=signature))
        if kind == "unmask":
            return Reply(site=site, unmasked=session.reveal(request.unmask)[0])
        if kind == "train":
            session.check(
                request.train.cohort,
                asked=asked_to_train(request.train),
                round_number=number,
                following=following(request.train),
            )
        if kind == "evaluate":
            session.check(
                request.evaluate.cohort,
                asked=asked_to_evaluate(request.evaluate),
                round_number=number + 1,
            )
        reply = super().answer(site, request, number)
        if kind == "join":
            member = session.join()
            reply.joined.session_key, reply.joined.session_signature = member.key, member.signature
            reply.joined.noise_std = self.noise_std
        elif kind == "evaluate":
            told = reply.evaluated
            words = METRICS_RING.words(np.array([told.right, told.examples], np.int64))
            told.masked, _ = session.contribute(
                request.evaluate.cohort,
                words,
                asked=asked_to_evaluate(request.evaluate),
                ring=METRICS_RING,
                round_number=number + 1,
            )
            told.right = told.examples = 0
        else:
            self.mask(reply.trained, request.train, session, self.update(site, number))
        return reply

    def mask(
        self, trained: pb.Trained, request: pb.Train, session: MaskedSession, update: np.ndarray
    ) -> None:
        ledger: Any = None  # what is uncovered is not told here
        sums = MaskedSite(
            self.manifest,
            update_size=LAYOUT.update_size,
            plan=self.plan(),
            session=session,
            ledger=ledger,
        )
        trained.MergeFrom(sums.contribute(update, request, fresh_source()))

    def update(self, site: str, number: int) -> np.ndarray:
        """Another one in each round, of norm 1."""
        found = np.random.default_rng([SITES.index(site), number]).standard_normal(LAYOUT.update_size)
        return (found / np.linalg.norm(found)).astype(np.float32)

    def numbers(self) -> list[int]:
        """The numbers of the sums that were asked for, each once, as they came."""
        found = [
            request.train.cohort.number or request.evaluate.cohort.number
            for _, request in self.sent
            if request.HasField("train") or request.HasField("evaluate")
        ]
        return list(dict.fromkeys(found))

    def rosters(self) -> dict[int, set[bytes]]:
        """Each list of sites that secrets were to be dealt for, by its number."""
        found: dict[int, set[bytes]] = {}
        for _, request in self.sent:
            for roster in (request.deal.roster, request.train.next):
                if roster.number:
                    found.setdefault(roster.number, set()).add(roster.SerializeToString())
        return found


def following(request: pb.Train) -> pb.Roster | None:
    return request.next if request.HasField("next") else None


def confirmation_of(site: str, content: bytes) -> pb.Confirmed:
    """What ``site`` signs for survivors' digest."""
    return pb.Confirmed(signature=identity(site).sign(SURVIVORS_PURPOSE, content))


def changed(**fields: object) -> Act:
    def act(reply: Reply) -> Reply:
        inner = getattr(reply, str(reply.WhichOneof("kind")))
        for name, value in fields.items():
            setattr(inner, name, value)
        return reply

    return act


def rounding(folder: RunFolder) -> float:
    """How far a coordinate of a mean may be from the exact one.

    Stochastic rounding moves each site's integers by less than 1, so each of the mean's by less than 1, and
    a rotation of 4 coordinates moves a vector of L2 norm √4 by as much in one coordinate: 2/scale. The
    updates and adapters are below 4 and in float32: 2^-22 for the encoded one, and as much for the sum.
    """
    encoding = make_encoding(
        folder.manifest, update_size=LAYOUT.update_size, number=1, noise_std=MaskedPost.noise_std
    )
    return 2.0 / encoding.scale + 2.0**-21


def moves(folder: RunFolder) -> list[np.ndarray]:
    """What each round added to the adapter."""
    adapters = [folder.load_adapter(n, LAYOUT) for n in range(len(folder.records()) + 1)]
    return [after - before for before, after in pairwise(adapters)]


def check_means(folder: RunFolder, post: MaskedPost, *present: set[str]) -> None:
    """Each round's step is the mean over those who are said to be in it, and its record says the same."""
    assert [record.present for record in folder.records()] == list(present)
    for number, (move, sites) in enumerate(zip(moves(folder), present, strict=True), start=1):
        mean = np.mean([post.update(site, number) for site in sites], axis=0)
        np.testing.assert_allclose(move, mean, atol=rounding(folder), err_msg=f"round {number}")


def without(*sites: str) -> set[str]:
    return set(SITES) - set(sites)


def steps(post: MaskedPost, site: str) -> list[tuple[str, int, bool]]:
    return [
        (kind, number, side_requests) for name, kind, number, side_requests in post.asked if name == site
    ]


def ends(folder: RunFolder, post: MaskedPost) -> ConfideError:
    with pytest.raises(ConfideError) as caught:
        go(folder, post)
    return caught.value
