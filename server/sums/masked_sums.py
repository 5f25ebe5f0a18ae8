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
from server.sums.contributors import Contributors
from server.sums.requests import Requests
from server.sums.sums import Asking, check_enough, spread, without_update

log = logging.getLogger("confide.sums")


@dataclass(kw_only=True)
class _Dealt:
    """A sum that secrets are dealt for: among whom, the most noise that one of them adds, what arrived."""

    roster: Roster
    noise_std: float
    dealings: dict[str, Dealing] = field(default_factory=dict)

    @property
    def sites(self) -> set[str]:
        """Who takes part in it."""
        return {member.site for member in self.roster.members}

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
        self._sites = Contributors()
        self._total: Words | None = None  # of their masked updates, not reduced

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
            self._current = self._begin(self._members, number)
            request = Request(
                deal=Deal(manifest_digest=self._manifest.digest, roster=write_roster(self._current.roster))
            )
            self._next = self._current
            answers = self._ask(dict.fromkeys(sorted(self._members), request), number)
            self._next = None
            self._members -= answers.refused.keys()
            self._take(answers.require(self._rules.min_survivors, "dealing", what="dealing"), self._current)
        return self._ready()

    def train(self, request: Train, *, following: Collection[str]) -> Mapping[str, Request]:
        self._sites, self._total = Contributors(), None
        # Too few may have joined yet: then secrets are dealt before the next round, and not in this one.
        enough = len(following) >= self._rules.min_survivors
        self._next = self._begin(following, request.round + 1) if enough else None
        request.noise_std = self._now.noise_std
        cohorts, number = self._hand_on(asked_to_train(request)), self._now.roster.number
        later = set() if self._next is None else self._next.sites
        roster = None if self._next is None else write_roster(self._next.roster)

        def make(site: str) -> Request:
            made = Request(train=request)  # the one copy of the adapter
            made.train.cohort.CopyFrom(write_cohort(cohorts[site], number=number))
            if roster is not None and site in later:
                made.train.next.CopyFrom(roster)
            return made

        return Requests(cohorts, make)

    def evaluate(self, request: Evaluate) -> Mapping[str, Request]:
        self._next = None
        cohorts, number = self._hand_on(asked_to_evaluate(request)), self._now.roster.number

        def make(site: str) -> Request:
            made = Request(evaluate=request)
            made.evaluate.cohort.CopyFrom(write_cohort(cohorts[site], number=number))
            return made

        return Requests(cohorts, make)

    def side_requests(self) -> dict[str, Request]:
        if self._next is None:
            return {}
        deal = Deal(manifest_digest=self._manifest.digest, roster=write_roster(self._next.roster))
        others = self._next.sites - set(self._ready()) - self._next.dealings.keys()
        return dict.fromkeys(sorted(others), Request(deal=deal))

    def take(self, site: str, reply: Reply) -> Reply:
        if reply.HasField("trained"):
            if self._next is not None and site in self._next.sites:
                check_dealing(self._next.roster, read_dealing(site, reply.trained.next))
            self._add(site, reply.trained.update)
            return without_update(reply)
        if reply.HasField("evaluated"):
            METRICS_RING.unpack(reply.evaluated.masked, size=self._counts)
        elif reply.HasField("dealing") and self._next is not None:
            check_dealing(self._next.roster, read_dealing(site, reply.dealing))
        elif reply.HasField("unmasked"):
            read_shares(reply.unmasked, self._now.roster)
        return reply

    def _add(self, site: str, update: bytes) -> None:
        """Add a masked update to the sum. Raises ProtocolError for one that is none, or a second one."""
        self._sites.check_new(site)
        job = self._manifest.job
        words = Ring(job.masks.modulus_bits).unpack(update, size=vector_size(job, self._size))
        if self._total is None:
            self._total = words.copy()
        else:
            self._total += words  # wraps around
        self._sites.add(site)

    def aggregate(
        self, trained: Mapping[str, Trained], dealt: Mapping[str, Reply], number: int
    ) -> NDArray[np.float32]:
        if self._next is not None:
            self._take(dealt, self._next)
        self._sites.check_all(trained)
        total, self._total = self._total, None
        if total is None:
            raise RunError(f"round {number}: expected a sum of one update or more, got none")
        encoding = make_encoding(
            self._manifest,
            update_size=self._size,
            number=self._now.roster.number,
            noise_std=self._now.noise_std,
            plan=self._plan,
        )
        ring = encoding.ring
        total = self._uncovered(ring.reduced(total), sorted(trained), ring=ring, number=number)
        if isinstance(self._plan, CentralSitePlan):
            mean = noisy_decoded_mean(
                total,
                encoding=encoding,
                plan=self._plan,
                count=len(trained),
                source=self._entropy(number, 0, "sum"),
            )
        else:
            mean = encoding.mean(total, count=len(trained))
        following, self._next = self._next, None
        if following is not None:
            for site in sorted(trained.keys() & following.sites):
                following.take(site, read_dealing(site, trained[site].next))
        self._current = following
        return spread(self._manifest, mean, self._size, number)

    def metrics(self, evaluated: Mapping[str, Evaluated], number: int) -> Metrics:
        masked = [METRICS_RING.unpack(one.masked, size=self._counts) for one in evaluated.values()]
        total = add_up(masked, ring=METRICS_RING, size=self._counts)
        total = self._uncovered(total, sorted(evaluated), ring=METRICS_RING, number=number)
        right, examples, *personal = map(int, METRICS_RING.centred(total))
        try:
            summed = SiteMetrics(right=right, examples=examples)
            own = SiteMetrics(right=personal[0], examples=examples) if personal else None
        except ValueError as error:
            raise ProtocolError(f"the sites' metrics add up to what cannot be: {error}") from error
        return Metrics(
            epsilon=self._manifest.job.metrics.epsilon,
            total=summed,
            told_by=tuple(sorted(evaluated)),
            personal=own,
        )

    @property
    def _counts(self) -> int:
        """How many numbers a site's metrics are."""
        return 3 if self._manifest.job.training.personal_steps else 2

    def _uncovered(self, total: Words, survivors: list[str], *, ring: Ring, number: int) -> Words:
        """The sum of the survivors' masked vectors, without masks, confirmed and uncovered by them."""
        roster = self._now.roster
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

    def _begin(self, members: Collection[str], number: int) -> _Dealt:
        """A sum to deal for, among these members as they joined last."""
        sites = sorted(members)
        check_enough(sites, self._rules.min_survivors, number)
        known = tuple(self._known[site] for site in sites)
        roster = Roster(rules=self._rules, number=self._take_number(), members=known)
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
