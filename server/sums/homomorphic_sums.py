"""Homomorphic sums: the coordinator hands sealed keys and ciphertexts on, and reads the sum alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.plan import SitePlan
from privacy.errors import ConfideError, ProtocolError, RunError
from privacy.secagg.ckks.ciphertexts import keyless_context, read_ciphertexts
from privacy.secagg.ckks.homomorphic import ciphertext_count
from privacy.secagg.ckks.homomorphic_sum import (
    LIST_PURPOSE,
    Contribution,
    check_contribution,
    content_digest,
    list_digest,
    sum_digest,
    sum_parameters,
)
from privacy.secagg.ckks.shared_key import check_key_dealing, forward_key, told_of_key
from privacy.secagg.roster import Cohort, Dealing, Dealt, Member, Roster
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import (
    Confirm,
    Deal,
    Evaluate,
    Evaluated,
    Joined,
    Open,
    Reply,
    Request,
    Signed,
    Train,
    Trained,
)
from protocol.messages.vector import from_bytes
from protocol.sums.ciphertext_messages import (
    make_contribution,
    read_key_dealing,
    write_encrypted,
)
from protocol.sums.mask_messages import asked_to_train, make_rules, read_joined, write_cohort, write_roster
from runs.metrics import Metrics
from server.sums.confirming import ask_to_confirm
from server.sums.requests import Requests
from server.sums.sums import Asking, check_enough

log = logging.getLogger("confide.sums")


class HomomorphicSums:
    """One sum after another, under a key that the sites share and the coordinator does not have.

    ``take_number`` gives a number that no sum of the run had; ``ask`` reaches sites. Before a round in
    which some have not the key, one that has it deals it to them. What whoever opens a sum says that it is
    cannot be checked here: each site can do as much harm by its update.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        update_size: int,
        plan: SitePlan | None,  # noqa: ARG002 - no run that hides whole sites is summed so
        take_number: Callable[[], int],
        ask: Asking,
    ) -> None:
        self._manifest = manifest
        self._rules = make_rules(manifest)
        self._size = update_size
        self._take_number = take_number
        self._ask = ask
        self._known: dict[str, Member] = {}
        self._members: set[str] = set()
        self._dealing: Dealing | None = None
        self._holders: set[str] = set()  # of the key that was dealt last
        self._roster: Roster | None = None
        self._asked = b""  # what the sites are asked to contribute

    def join(self, site: str, joined: Joined) -> None:
        self._known[site] = read_joined(site, joined, self._manifest)
        self._holders.discard(site)  # it may have lost what it had

    def prepare(self, members: Collection[str], number: int) -> list[str]:
        self._members = set(members)
        check_enough(self._members, self._rules.min_survivors, number)
        self._roster = Roster(
            rules=self._rules,
            number=self._take_number(),
            members=tuple(self._known[site] for site in sorted(self._members)),
        )
        if not self._members <= self._holders:
            self._deal(self._roster, number)
        return sorted(self._members)

    def train(
        self,
        request: Train,
        *,
        following: Collection[str],  # noqa: ARG002 - no sum needs the next
    ) -> Mapping[str, Request]:
        roster, self._asked = self._roster_now, asked_to_train(request)
        told = {site: self._dealt(site) for site in sorted(self._members)}

        def make(site: str) -> Request:
            train = Train()
            train.CopyFrom(request)
            train.roster.CopyFrom(write_roster(roster))
            train.cohort.CopyFrom(write_cohort(Cohort(dealt=(told[site],)), number=roster.number))
            return Request(train=train)

        return Requests(told, make)

    def evaluate(self, request: Evaluate) -> dict[str, Request]:  # noqa: ARG002
        raise _no_metrics()

    def side_requests(self) -> dict[str, Request]:
        return {}

    def take(self, site: str, reply: Reply) -> Reply:
        if reply.HasField("trained"):
            contribution = self._contribution(site, reply.trained)
            check_contribution(contribution, self._roster_now, self._digest)
            # Whoever opens the sum would refuse it for one that is none.
            parameters = sum_parameters(self._rules)
            read_ciphertexts(
                contribution.content,
                count=ciphertext_count(self._size),
                parameters=parameters,
                context=keyless_context(parameters),
            )
        elif reply.HasField("dealing"):
            check_key_dealing(self._roster_now, read_key_dealing(site, reply.dealing))
        elif reply.HasField("opened"):
            from_bytes(reply.opened.sum, size=self._size)
        return reply  # whoever opens the sum gets all ciphertexts

    def aggregate(
        self,
        trained: Mapping[str, Trained],
        dealt: Mapping[str, Reply],  # noqa: ARG002 - the key is dealt before the round
        number: int,
    ) -> NDArray[np.float32]:
        self._holders |= trained.keys()
        contributions = [self._contribution(site, answer) for site, answer in sorted(trained.items())]
        signatures = self._confirmed(contributions, number)
        request = Request(
            open=Open(
                manifest_digest=self._manifest.digest,
                number=self._roster_now.number,
                updates=map(write_encrypted, contributions),
                signatures=[Signed(site=site, signature=one) for site, one in signatures.items()],
            )
        )
        # Whoever has not confirmed the list opens nothing.
        opened = self._ask_in_turn(sorted(signatures), request, "opened", number, what="opening the sum")
        total = from_bytes(opened.opened.sum, size=self._size)
        return (total / np.float32(len(contributions))).astype(np.float32)

    def metrics(self, evaluated: Mapping[str, Evaluated], number: int) -> Metrics:  # noqa: ARG002
        raise _no_metrics()

    def _deal(self, roster: Roster, number: int) -> None:
        """Have the sites' key dealt to all, by one that has it, or else by whoever makes it."""
        deal = Deal(manifest_digest=self._manifest.digest, roster=write_roster(roster))
        having = sorted(self._members & self._holders)
        order = having + sorted(self._members - self._holders)
        reply = self._ask_in_turn(order, Request(deal=deal), "dealing", number, what="dealing the key")
        dealing = read_key_dealing(reply.site, reply.dealing)
        same = self._dealing is not None and self._dealing.commitment == dealing.commitment
        self._holders = {reply.site} | (self._holders if same else set())
        self._dealing = dealing

    def _ask_in_turn(
        self, sites: Collection[str], request: Request, kind: str, number: int, *, what: str
    ) -> Reply:
        """The first site's answer, or the next one's if it gives none; who refuses is out of the sum.

        Raises what the last one refused with, or RunError if it is silent.
        """
        last: ConfideError = RunError(f"round {number}: {what}: there is no site to ask")
        for site in sites:
            answers = self._ask({site: request}, number, enough=1)
            found = answers.of(kind).get(site)
            if found is not None:
                return found
            if site in answers.refused:
                self._members.discard(site)
                last = answers.refused[site]
            else:
                last = RunError(
                    f"round {number}: {what}: no answer from {site}: {answers.silent.get(site)}"
                )
            log.warning("%s; the next site is asked", last)
        raise last

    def _confirmed(self, contributions: list[Contribution], number: int) -> dict[str, bytes]:
        digests = {one.site: content_digest(one.content) for one in contributions}
        return ask_to_confirm(
            self._ask,
            Confirm(
                manifest_digest=self._manifest.digest,
                number=self._roster_now.number,
                survivors=list(digests),
                digests=list(digests.values()),
            ),
            identities={site: self._known[site].identity for site in digests},
            purpose=LIST_PURPOSE,
            content=list_digest(self._digest, digests),
            quorum=self._rules.threshold,
            number=number,
        )

    def _contribution(self, site: str, trained: Trained) -> Contribution:
        return make_contribution(site, trained.update, trained.signature, update_size=self._size)

    def _dealt(self, site: str) -> Dealt:
        """What a site is told of the key, sealed for it if it may not have it."""
        if self._dealing is None:
            raise RunError("the sites' key was not dealt")
        if site in self._holders:
            return told_of_key(self._dealing)
        return forward_key(self._roster_now, self._dealing, site)

    @property
    def _roster_now(self) -> Roster:
        if self._roster is None:
            raise RunError("no sum was prepared")
        return self._roster

    @property
    def _digest(self) -> bytes:
        """What the sum that is being asked for is known by: it is the same for every site."""
        if self._dealing is None:
            raise RunError("the sites' key was not dealt")
        return sum_digest(self._roster_now, told_of_key(self._dealing), asked=self._asked)


def _no_metrics() -> ProtocolError:
    return ProtocolError('expected no metrics with aggregation.kind="homomorphic": metrics.epsilon=0')
