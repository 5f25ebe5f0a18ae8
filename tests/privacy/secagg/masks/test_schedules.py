"""Whatever order messages come in: sites that crash, join again and drop out, and everything said twice.

Hypothesis plays a coordinator that resends and lies, over sites whose processes die at any step. A site's
state is durable before its answer leaves; a variant for which that does not hold must be caught.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from privacy.errors import AggregationError
from privacy.secagg.masks import site_steps as secagg
from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.masks.masking import apply_masks
from privacy.secagg.masks.site_steps import Held, SiteState
from privacy.secagg.ring import Ring, Words
from privacy.secagg.roster import Cohort, Dealing, Roster
from tests.privacy.exchanges import Sites, contribute, identity_of, make_rules, names

COUNT, SIZE = 4, 3
RING = Ring(16)
SITES = st.sampled_from(names(COUNT))
# All goes well; the answer is lost; the process dies before its state is durable.
FATES = st.sampled_from(["answered", "lost", "died"])
# Two left out are too many.
LISTS = st.sampled_from([[], *([site] for site in names(COUNT)), names(2)]).map(
    lambda left_out: tuple(site for site in names(COUNT) if site not in left_out)
)
STEPS = ("deal", "contribute", "confirm", "reveal")
SETTINGS = hypothesis.settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# A control is to be found, not to be made small.
SEARCH = hypothesis.settings(SETTINGS, max_examples=500, phases=[hypothesis.Phase.generate])


@dataclass
class Exchange:
    """What a coordinator has of one exchange."""

    roster: Roster
    dealings: dict[str, Dealing] = field(default_factory=dict)
    cohorts: dict[str, Cohort] = field(default_factory=dict)
    plain: dict[str, Words] = field(default_factory=dict)
    masked: dict[str, Words] = field(default_factory=dict)
    survivors: tuple[str, ...] = ()
    signatures: dict[str, bytes] = field(default_factory=dict)
    shares: dict[str, Mapping[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A step that a site was asked for: its arguments are kept, to be said again at any time."""

    kind: str
    site: str
    exchange: Exchange
    cohort: Cohort | None = None
    survivors: tuple[str, ...] = ()
    signatures: Mapping[str, bytes] = field(default_factory=dict)


class Schedule(RuleBasedStateMachine):
    """Four sites, three of which uncover a sum; what left them is checked at each step."""

    durable_first = True
    completed = 0

    @initialize(confirm=st.booleans())
    def start(self, confirm: bool) -> None:
        self.sites = Sites(make_rules(COUNT, confirm=confirm))
        self.number = 0
        self.asked: list[Request] = []
        self.random = np.random.default_rng(0)
        # What has left the sites: words under a self mask's seed, single shares, and lists signed.
        self.vectors: dict[bytes, bytes] = {}
        self.released: set[bytes] = set()
        self.signed: dict[tuple[str, bytes], tuple[str, ...]] = {}
        self.exchange = Exchange(roster=self.sites.roster(1))
        self.next_exchange(sites=tuple(names(COUNT)))

    # What happens.

    @rule(sites=LISTS)
    def next_exchange(self, sites: Sequence[str]) -> None:
        if len(sites) >= self.sites.rules.min_survivors:
            self.number += 1
            self.exchange = Exchange(roster=self.sites.roster(self.number, sites))

    @rule(site=SITES)
    def join_anew(self, site: str) -> None:
        """A site that has lost its state."""
        self.sites.join(site)

    @rule(name=st.sampled_from(STEPS), site=SITES, fate=FATES)
    def ask_one(self, name: str, site: str, fate: str) -> None:
        """The next step of one site, if the coordinator has what it takes."""
        exchange = self.exchange
        cohort = exchange.cohorts.get(site)
        if name == "deal" and site in exchange.roster.places:
            self.ask(Request(name, site, exchange), fate)
        elif name == "contribute" and cohort is not None and not exchange.survivors:
            self.ask(Request(name, site, exchange, cohort=cohort), fate)
        elif name in ("confirm", "reveal") and site in exchange.survivors:
            signatures = dict(exchange.signatures)
            self.ask(
                Request(name, site, exchange, survivors=exchange.survivors, signatures=signatures), fate
            )

    @rule(name=st.sampled_from(STEPS))
    def close(self, name: str) -> None:
        """No more answers of a step, if there are enough. When an exchange completes, its sum is exact."""
        exchange, rules = self.exchange, self.sites.rules
        if name == "deal" and not exchange.masked and len(exchange.dealings) >= rules.min_survivors:
            exchange.cohorts = forward(exchange.roster, exchange.dealings)
        elif (
            name == "contribute" and not exchange.survivors and len(exchange.masked) >= rules.min_survivors
        ):
            exchange.survivors = tuple(sorted(exchange.masked))
        elif name == "reveal" and len(exchange.shares) >= rules.threshold:
            self.check_sum(exchange)

    @rule(
        anew=st.booleans(),
        until=st.sampled_from([*STEPS, "confirm", "reveal", "reveal"]),
        troubles=st.dictionaries(st.tuples(st.sampled_from(STEPS), SITES), FATES, max_size=3),
        twice=st.booleans(),
    )
    def go_through(
        self, anew: bool, until: str, troubles: Mapping[tuple[str, str], str], twice: bool
    ) -> None:
        """An exchange up to a step, or what is left of one; a few answers meet a fate."""
        if anew:
            self.next_exchange(sites=names(COUNT))
        for name in STEPS[: STEPS.index(until) + 1]:
            for site in names(COUNT):
                fate = troubles.get((name, site), "answered")
                self.ask_one(name=name, site=site, fate=fate)
                if twice:
                    self.ask_one(name=name, site=site, fate="answered")
            self.close(name=name)

    @rule(which=st.integers(0, 40), fate=FATES)
    def say_again(self, which: int, fate: str) -> None:
        """Any earlier request, from the latest back."""
        if self.asked:
            self.ask(self.asked[-1 - which % len(self.asked)], fate)

    @rule(
        lists=st.lists(LISTS, min_size=1, max_size=2),
        steps=st.sampled_from([("confirm",), ("reveal",), ("confirm", "reveal")]),
    )
    def lie(self, lists: Sequence[tuple[str, ...]], steps: Sequence[str]) -> None:
        """Other survivors, said to each of them, with all signatures for these that there are."""
        for survivors in lists:
            self.say(survivors, steps)

    def say(self, survivors: tuple[str, ...], steps: Sequence[str]) -> None:
        signatures: dict[str, bytes] = {}
        for name in steps:
            for site in survivors:
                request = Request(
                    name, site, self.exchange, survivors=survivors, signatures=dict(signatures)
                )
                answer = self.ask(request, "answered")
                if name == "confirm" and answer is not None:
                    signatures[site] = answer

    # What a site does, and what leaves it.

    def ask(self, request: Request, fate: str) -> object:
        """Its answer, if it has one and this arrives."""
        self.asked.append(request)
        site, exchange = request.site, request.exchange
        before, number = self.sites.states[site], exchange.roster.number
        try:
            after, answer = self.step(request, before, number)
        except AggregationError:
            return None
        if fate != "died":
            self.sites.states[site] = after
        if fate == "answered" or (fate == "died" and not self.durable_first):
            self.check(request, before, answer)
            self.take(request, answer)
            return answer
        return None

    def step(self, request: Request, state: SiteState, number: int) -> tuple[SiteState, object]:
        if request.kind == "deal":
            roster = request.exchange.roster
            return secagg.deal(state, roster, peers=self.sites.peers, random=self.sites.random)
        if request.kind == "contribute":
            # A site that is asked again would have trained again.
            words = self.random.integers(0, 1 << 16, SIZE, np.uint16)
            after, masked = contribute(state, request.cohort, words, number=number, ring=RING)
            return after, (words, masked)
        survivors = request.survivors
        if request.kind == "confirm":
            return secagg.confirm(state, survivors, number=number, identity=identity_of(request.site))
        return secagg.reveal(state, survivors, number=number, signatures=request.signatures)

    def check(self, request: Request, before: SiteState, answer: object) -> None:
        if request.kind == "contribute":
            masked = answer[1].tobytes()
            first = self.vectors.setdefault(before.dealer.seed, masked)
            assert first == masked, "two vectors under one mask"
        elif request.kind == "confirm":
            key = request.site, before.holder.cohort
            first = self.signed.setdefault(key, request.survivors)
            assert first == request.survivors, "two lists signed"
        elif request.kind == "reveal":
            self.released |= set(answer.values())
            assert not any(self.both(held) for held in before.holder.held.values()), "both secrets"

    def both(self, held: Held) -> bool:
        return {held.seed, held.key} <= self.released

    def take(self, request: Request, answer: object) -> None:
        """An honest coordinator's part: late answers, and those to lies, are put aside."""
        site, exchange = request.site, request.exchange
        if request.kind == "deal" and not exchange.cohorts:
            exchange.dealings[site] = answer
        elif request.kind == "contribute" and not exchange.survivors:
            if request.cohort == exchange.cohorts.get(site):
                exchange.plain[site], exchange.masked[site] = answer
        elif request.survivors and request.survivors == exchange.survivors:
            if request.kind == "confirm":
                exchange.signatures[site] = answer
            elif request.kind == "reveal":
                exchange.shares[site] = answer

    def check_sum(self, exchange: Exchange) -> None:
        found = unmask(
            add_up((exchange.masked[site] for site in exchange.survivors), ring=RING, size=SIZE),
            ring=RING,
            roster=exchange.roster,
            cohort=exchange.cohorts[exchange.survivors[0]],
            survivors=exchange.survivors,
            shares=exchange.shares,
        )
        expected = add_up((exchange.plain[site] for site in exchange.survivors), ring=RING, size=SIZE)
        assert found.tolist() == expected.tolist(), "the sum is wrong"
        type(self).completed += 1


def test_no_schedule_breaks_a_site() -> None:
    Schedule.completed = 0
    run_state_machine_as_test(Schedule, settings=SETTINGS)
    # It was no empty promise: exchanges did complete.
    assert Schedule.completed >= 20


# Controls: each defect is found by the same schedules.


class Careless(Schedule):
    """Sites whose answer leaves before their state is durable."""

    durable_first = False


def that_keep_what_they_masked_with(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = secagg.prepare

    def prepare(state: SiteState, *rest: object, **named: object) -> secagg.Contribution:
        ready = whole(state, *rest, **named)
        return replace(ready, state=replace(ready.state, dealer=state.dealer, last=state.last))

    monkeypatch.setattr(secagg, "prepare", prepare)


def that_sign_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = secagg.confirm

    def confirm(state: SiteState, *rest: object, **named: object) -> tuple[SiteState, bytes]:
        holder = state.holder and replace(state.holder, survivors=None)
        return whole(replace(state, holder=holder), *rest, **named)

    monkeypatch.setattr(secagg, "confirm", confirm)


def that_reveal_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = secagg.reveal

    def reveal(state: SiteState, *rest: object, **named: object) -> tuple[SiteState, dict[str, bytes]]:
        _, shares = whole(state, *rest, **named)
        return state, shares

    monkeypatch.setattr(secagg, "reveal", reveal)


def that_add_what_others_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        secagg,
        "apply_masks",
        lambda words, *, ring, add, subtract: apply_masks(words, ring=ring, add=[*add, *subtract]),
    )


@pytest.mark.parametrize(
    ("breaking", "named"),
    [
        (that_keep_what_they_masked_with, "two vectors"),
        (that_sign_again, "two lists"),
        (that_reveal_again, "both secrets"),
        (that_add_what_others_add, "the sum is wrong"),
    ],
)
def test_broken_sites_are_caught(
    breaking: Callable[[pytest.MonkeyPatch], None], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch)
    with pytest.raises(AssertionError, match=named):
        run_state_machine_as_test(Schedule, settings=SEARCH)


def test_sites_that_answer_before_they_write_are_caught() -> None:
    with pytest.raises(AssertionError, match=r"two vectors|two lists|both secrets"):
        run_state_machine_as_test(Careless, settings=SEARCH)
