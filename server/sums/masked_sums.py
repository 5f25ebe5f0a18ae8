"""Sums under masks: the coordinator hands sealed shares on, adds masked words, and reads the sum alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.accounting.plan import SitePlan
from privacy.errors import AggregationError, ProtocolError, RunError
from privacy.secagg.masks.coordinator_steps import add_up, check_dealing, forward, unmask
from privacy.secagg.masks.site_steps import SURVIVORS_PURPOSE
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Member, Roster, survivors_digest
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import (
    Confirm,
    Deal,
    Evaluate,
    Evaluated,
    Joined,
    Reply,
    Request,
    Signed,
    Train,
    Trained,
    Unmask,
)
from protocol.sums.mask_messages import (
    METRICS_RING,
    asked_to_evaluate,
    asked_to_train,
    make_rules,
    read_dealing,
    read_joined,
    read_shares,
    write_cohort,
    write_roster,
)
from protocol.sums.update_encoding import make_encoding, vector_size
from runs.metrics import Metrics, SiteMetrics
from server.post.post import Exchange
from server.sums.central_noise import central_entropy, noisy_decoded_mean
from server.sums.confirming import ask_to_confirm
from server.sums.sums import Asking, check_enough, spread

log = logging.getLogger("confide.sums")


@dataclass(kw_only=True)
class _Dealt:
    """A sum that secrets are dealt for: among whom, the most noise that one of them adds, what arrived."""

    roster: Roster
    noise_std: float
    dealings: dict[str, Dealing] = field(default_factory=dict)

    def take(self, site: str, dealing: Dealing) -> None:
        """Raises AggregationError for a dealing that does not fit the roster."""
        check_dealing(self.roster, dealing)
        self.dealings[site] = dealing


class MaskedSums:
    """One sum after another.

    ``take_number`` gives a number that no sum of the run had; ``ask`` reaches sites. A round's answers
    bring the dealings for the next one with them. Sites that are missing there, since they joined or came
    back meanwhile, are asked aside.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        update_size: int,
        plan: SitePlan | None,
        take_number: Callable[[], int],
        ask: Asking,
    ) -> None:
        self._manifest = manifest
        self._rules = make_rules(manifest)
        self._size = update_size
        self._plan = plan
        self._take_number = take_number
        self._ask = ask
        self._entropy = central_entropy(manifest)
        self._known: dict[str, Member] = {}
        self._noise_std: dict[str, float] = {}
        self._members: set[str] = set()
        self._current: _Dealt | None = None
        self._next: _Dealt | None = None
        self._cohorts: dict[str, Cohort] = {}  # of the sum that is being asked for

    def join(self, site: str, joined: Joined) -> None:
        member = read_joined(site, joined, self._manifest)
        if not 0.0 <= joined.noise_std < math.inf:
            raise ProtocolError(f"{site} tells of noise_std={joined.noise_std}: expected a deviation")
        if self._known.get(site, member) != member and self._current is not None:
            # Its earlier dealing is of a session that it has forgotten.
            self._current.dealings.pop(site, None)
        self._known[site] = member
        self._noise_std[site] = joined.noise_std

    def prepare(self, members: Collection[str], number: int) -> list[str]:
        self._members = set(members)
        if len(self._ready()) < self._rules.min_survivors:
            self._current = self._begin(number)
            request = Request(
                deal=Deal(manifest_digest=self._manifest.digest, roster=write_roster(self._current.roster))
            )
            self._next = self._current
            answers = self._ask(dict.fromkeys(sorted(self._members), request), number)
            self._next = None
            self._members -= answers.refused.keys()
            self._take(answers.require(self._rules.min_survivors, "dealing", what="dealing"), self._current)
        return self._ready()

    def train(self, request: Train, *, last: bool) -> dict[str, Request]:
        self._next = None if last else self._begin(request.round)
        requests = {}
        request.noise_std = self._now.noise_std
        for site, cohort in self._hand_on(asked_to_train(request)).items():
            train = Train()
            train.CopyFrom(request)
            train.cohort.CopyFrom(write_cohort(cohort, number=self._now.roster.number))
            if self._next is not None:
                train.next.CopyFrom(write_roster(self._next.roster))
            requests[site] = Request(train=train)
        return requests

    def evaluate(self, request: Evaluate) -> dict[str, Request]:
        self._next = None
        requests = {}
        for site, cohort in self._hand_on(asked_to_evaluate(request)).items():
            evaluate = Evaluate()
            evaluate.CopyFrom(request)
            evaluate.cohort.CopyFrom(write_cohort(cohort, number=self._now.roster.number))
            requests[site] = Request(evaluate=evaluate)
        return requests

    def side_requests(self) -> dict[str, Request]:
        if self._next is None:
            return {}
        deal = Deal(manifest_digest=self._manifest.digest, roster=write_roster(self._next.roster))
        others = self._members - set(self._ready()) - self._next.dealings.keys()
        return dict.fromkeys(sorted(others), Request(deal=deal))

    def check(self, site: str, reply: Reply) -> None:
        if reply.HasField("trained"):
            job = self._manifest.job
            size = vector_size(job, self._size)
            Ring(job.masks.modulus_bits).unpack(reply.trained.update, size=size)
            if self._next is not None:
                check_dealing(self._next.roster, read_dealing(site, reply.trained.next))
        elif reply.HasField("evaluated"):
            METRICS_RING.unpack(reply.evaluated.masked, size=2)
        elif reply.HasField("dealing") and self._next is not None:
            check_dealing(self._next.roster, read_dealing(site, reply.dealing))
        elif reply.HasField("unmasked"):
            read_shares(reply.unmasked, self._now.roster)

    def aggregate(
        self, trained: Mapping[str, Trained], dealt: Mapping[str, Reply], number: int
    ) -> NDArray[np.float32]:
        if self._next is not None:
            self._take(dealt, self._next)
        encoding = make_encoding(
            self._manifest,
            update_size=self._size,
            number=self._now.roster.number,
            noise_std=self._now.noise_std,
            plan=self._plan,
        )
        masked = {
            site: encoding.ring.unpack(answer.update, size=encoding.dimension)
            for site, answer in trained.items()
        }
        total = self._uncovered(masked, ring=encoding.ring, size=encoding.dimension, number=number)
        if isinstance(self._plan, CentralSitePlan):
            mean = noisy_decoded_mean(
                total,
                encoding=encoding,
                plan=self._plan,
                count=len(masked),
                source=self._entropy(number, 0, "sum"),
            )
        else:
            mean = encoding.mean(total, count=len(masked))
        following, self._next = self._next, None
        if following is not None:
            for site, answer in trained.items():
                following.take(site, read_dealing(site, answer.next))
        self._current = following
        return spread(self._manifest, mean, self._size, number)

    def metrics(self, evaluated: Mapping[str, Evaluated], number: int) -> Metrics:
        masked = {site: METRICS_RING.unpack(answer.masked, size=2) for site, answer in evaluated.items()}
        total = self._uncovered(masked, ring=METRICS_RING, size=2, number=number)
        right, examples = map(int, METRICS_RING.centred(total))
        try:
            summed = SiteMetrics(right=right, examples=examples)
        except ValueError as error:
            raise ProtocolError(f"the sites' metrics add up to what cannot be: {error}") from error
        return Metrics(
            epsilon=self._manifest.job.metrics.epsilon, total=summed, told_by=tuple(sorted(masked))
        )

    def _uncovered(self, masked: Mapping[str, Words], *, ring: Ring, size: int, number: int) -> Words:
        """The sum of the masked vectors, without masks, confirmed and uncovered by their sites."""
        survivors, roster = sorted(masked), self._now.roster
        quorum = roster.committee.quorum
        cohort = self._cohorts[survivors[0]]
        signatures = self._confirmed(survivors, cohort, number)
        request = Request(
            unmask=Unmask(
                manifest_digest=self._manifest.digest,
                number=roster.number,
                survivors=survivors,
                # More would only be more for each site to verify.
                signatures=[
                    Signed(site=site, signature=signatures[site]) for site in sorted(signatures)[:quorum]
                ],
            )
        )
        asked = dict.fromkeys(survivors, request)
        answers = self._ask_meanwhile(asked, number, enough=self._rules.threshold)
        told = answers.require(self._rules.threshold, "unmasked", what="uncovering the sum")
        total = add_up(masked.values(), ring=ring, size=size)
        try:
            return unmask(
                total,
                ring=ring,
                roster=roster,
                cohort=cohort,
                survivors=survivors,
                shares={site: read_shares(reply.unmasked, roster) for site, reply in told.items()},
            )
        except AggregationError as error:
            raise RunError(f"round {number}: its sum cannot be uncovered: {error}") from error

    def _confirmed(self, survivors: list[str], cohort: Cohort, number: int) -> dict[str, bytes]:
        """Survivors' signatures under who they are, of those who sign; none where the job asks for none."""
        if not self._rules.confirm:
            return {}
        roster = self._now.roster
        return ask_to_confirm(
            self._ask_meanwhile,
            Confirm(manifest_digest=self._manifest.digest, number=roster.number, survivors=survivors),
            identities={site: self._known[site].identity for site in survivors if site in roster.signers},
            purpose=SURVIVORS_PURPOSE,
            content=survivors_digest(cohort.digest(roster), survivors),
            quorum=roster.committee.quorum,
            number=number,
        )

    def _ask_meanwhile(
        self,
        requests: Mapping[str, Request],
        number: int,
        *,
        enough: int | None = None,
        side_requests: Mapping[str, Request] | None = None,
    ) -> Exchange:
        """Ask, and those who are missing to deal for the next sum: they may be back by now."""
        answers = self._ask(
            requests, number, enough=enough, side_requests={**self.side_requests(), **(side_requests or {})}
        )
        if self._next is not None:
            self._take(answers.of("dealing"), self._next)
        return answers

    @property
    def _now(self) -> _Dealt:
        if self._current is None:
            raise RunError("no secrets were dealt for this sum")
        return self._current

    def _ready(self) -> list[str]:
        """The members whose secrets are dealt for the sum to come."""
        return sorted(self._current.dealings.keys() & self._members) if self._current else []

    def _begin(self, number: int) -> _Dealt:
        """A sum to deal for, among all members as they joined last."""
        sites = sorted(self._members)
        check_enough(sites, self._rules.min_survivors, number)
        members = tuple(self._known[site] for site in sites)
        roster = Roster(rules=self._rules, number=self._take_number(), members=members)
        return _Dealt(roster=roster, noise_std=max(self._noise_std[site] for site in sites))

    def _hand_on(self, asked: bytes) -> dict[str, Cohort]:
        """What each contributor gets: the same for all of this sum, whoever leaves or comes back."""
        ready = {site: self._now.dealings[site] for site in self._ready()}
        self._cohorts = forward(self._now.roster, ready, asked=asked)
        return self._cohorts

    def _take(self, replies: Mapping[str, Reply], dealt: _Dealt) -> None:
        for site, reply in replies.items():
            if reply.HasField("dealing"):
                dealt.take(site, read_dealing(site, reply.dealing))
