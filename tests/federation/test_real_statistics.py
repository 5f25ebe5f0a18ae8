"""Statistics of sites behind agents: what is told and charged, who is away, and who asks otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import statistics_site
from privacy.errors import BudgetError, ConfideError, RunError, SiteError
from privacy.identity import Identity
from privacy.ledger import ledger as ledgers
from privacy.ledger.ledger_audit import audit_ledger
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import COORDINATOR, seal
from runs.statistics_folder import StatisticsFolder
from server import statistics_round
from server.statistics_round import count_at_sites
from tests.federation.at_home import (
    SITES,
    ChangingPost,
    FederationAtHome,
    KilledAfter,
)

ASKED: dict[str, Any] = {"epsilon": 20.0, "labels": True, "lengths": {"range": [2, 10], "bins": 8}}
MASKED: dict[str, Any] = {"statistics": ASKED, "aggregation": {"kind": "masks"}}
TWO: dict[str, Any] = {
    "statistics": ASKED,
    "aggregation": {"kind": "masks", "threshold": 2},
    "federation": {"min_sites": 2},
}
KINDS = ["join", "deal", "count", "confirm", "unmask"]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., FederationAtHome]]:
    made: list[FederationAtHome] = []

    def federation(**rules: Any) -> FederationAtHome:
        made.append(FederationAtHome(tmp_path, **({"statistics_epsilon": 20.0} | rules)))
        return made[-1]

    yield federation
    for one in made:
        one.stop()


def true_counts(federation: FederationAtHome, *sites: str) -> list[int]:
    """Of labels, then of lengths, over sites' rows: a token a word, and two more."""
    labels, lengths = [0, 0], [0] * 10
    for site in sites:
        for text, label, _ in federation.rows[site]:
            labels[("no", "yes").index(label)] += 1
            lengths[min(max(len(text.split()) + 2 - 2 + 1, 0), 9)] += 1
    return labels + lengths


def check_told(federation: FederationAtHome, folder: StatisticsFolder, *sites: str) -> None:
    """What is told is of these sites, within six deviations, and each was charged once, and no other."""
    told = folder.statistics
    assert set(told.spent) == set(sites)
    found = np.concatenate([one.counts for one in told.histograms])
    # Six deviations of normal noise are left once in 5·10^8 times.
    assert np.abs(found - true_counts(federation, *sites)).max() < 6 * told.histograms[0].std
    assert json.loads((folder.path / "statistics.json").read_text()) == told.as_table()
    assert not (folder.path / "answered.json").exists()
    for name, site in federation.sites.items():
        charges = [type(one).__name__ for one in site.charges()]
        assert charges == (["Begun", "Released"] if name in sites else []), name
        if name in sites:
            (data,) = audit_ledger(site.home.ledger_path).datasets
            assert data.epsilon == pytest.approx(told.spent[name], rel=1e-6)


def test_sites_count_under_masks_and_nobody_is_asked_again(
    make: Callable[..., FederationAtHome],
) -> None:
    federation = make(secure_aggregation="required", least_cohort=3)
    folder = federation.create(**MASKED)
    federation.count(folder)
    check_told(federation, folder, *SITES)
    assert [kind for site, kind in federation.asked() if site == "west"] == KINDS
    told, asked = (folder.path / "statistics.json").read_bytes(), len(federation.mail.sent)
    federation.count(folder)
    assert (folder.path / "statistics.json").read_bytes() == told
    assert len(federation.mail.sent) == asked


def test_whoever_is_stopped_at_any_step_gets_the_same_answers(
    make: Callable[..., FederationAtHome],
) -> None:
    """The coordinator is killed after each step, and an agent with it; nobody counts twice."""
    federation = make()
    folder = federation.create(**MASKED)
    charged = []
    for kind in KINDS:
        with pytest.raises(KeyboardInterrupt):
            count_at_sites(KilledAfter(federation.post(folder), kind), folder)
        charged.append(len(federation.sites["north"].charges()))
        federation.connect("south")
    assert charged == [0, 0, 2, 2, 2]
    federation.count(folder)
    check_told(federation, folder, *SITES)


def test_shares_that_were_revealed_and_lost_are_given_again(make: Callable[..., FederationAtHome]) -> None:
    """A site reveals once: whoever comes back asks for the shares in the very same words."""
    federation = make()
    folder = federation.create(**MASKED)
    with pytest.raises(KeyboardInterrupt):
        count_at_sites(KilledAfter(federation.post(folder), "unmask"), folder)
    federation.count(folder)
    check_told(federation, folder, *SITES)


def test_counts_in_the_open_are_given_again_too(make: Callable[..., FederationAtHome]) -> None:
    federation = make()
    folder = federation.create(statistics=ASKED)
    with pytest.raises(KeyboardInterrupt):
        count_at_sites(KilledAfter(federation.post(folder), "count"), folder)
    federation.connect("west")
    federation.count(folder)
    check_told(federation, folder, *SITES)


def test_who_is_away_is_left_out_and_costs_nothing(make: Callable[..., FederationAtHome]) -> None:
    federation = make()
    folder = federation.create(**TWO)
    federation.disconnect("west")
    federation.count(folder)
    check_told(federation, folder, "north", "south")


def test_too_few_tell_nothing_until_they_are_back(make: Callable[..., FederationAtHome]) -> None:
    federation = make()
    folder = federation.create(**MASKED)
    federation.disconnect("west")
    with pytest.raises(RunError, match="expected answers from at least 3 sites in time, got 2"):
        federation.count(folder)
    assert not any(site.charges() for site in federation.sites.values())
    federation.connect("west")
    federation.count(folder)
    check_told(federation, folder, *SITES)


def test_who_goes_after_it_was_dealt_for_is_taken_out_of_the_masks(
    make: Callable[..., FederationAtHome],
) -> None:
    federation = make()
    folder = federation.create(**TWO)
    answer = federation.sites["west"].node

    def silent(content: bytes) -> Any:
        request = pb.Request.FromString(pb.Envelope.FromString(content).payload)
        return None if request.HasField("count") else answer(content)

    federation.mail.does["west"] = silent
    federation.count(folder)
    check_told(federation, folder, "north", "south")
    assert {site for site, kind in federation.asked() if kind == "count"} == set(SITES)


# What custodians say.


def test_sites_refuse_unless_their_policy_allows_it(make: Callable[..., FederationAtHome]) -> None:
    federation = make(statistics_epsilon=1.0)
    with pytest.raises(SiteError, match=r"north refused: .*statistics_epsilon"):
        federation.count(federation.create(**MASKED))
    assert not any(site.charges() for site in federation.sites.values())


def test_statistics_wait_for_a_custodian(make: Callable[..., FederationAtHome]) -> None:
    federation = make(approval="manual")
    folder = federation.create(**MASKED)
    with pytest.raises(SiteError, match="run run waits for the custodian"):
        federation.count(folder)
    for site in federation.sites.values():
        assert site.charges() == []
        site.home.approve(site.home.waiting("run"))
    federation.count(folder)
    check_told(federation, folder, *SITES)


def test_nothing_is_counted_before_it_is_charged(
    make: Callable[..., FederationAtHome], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = make()
    places, seen = statistics_site.places_of, []

    def watched(*asked: Any, **options: Any) -> Any:
        seen.append([len(site.charges()) for site in federation.sites.values()])
        return places(*asked, **options)

    monkeypatch.setattr(statistics_site, "places_of", watched)
    federation.count(federation.create(**MASKED))
    assert seen == [[2, 0, 0], [2, 2, 0], [2, 2, 2]]


# A coordinator that asks otherwise.


def sealed(
    federation: FederationAtHome, request: pb.Request, *, counter: int, key: Identity | None = None
) -> bytes:
    """A request to the north's agent, under the coordinator's key or another."""
    now = federation.mail.ticking.clock.now()
    return seal(
        key or federation.identity,
        request.SerializeToString(),
        run="run",
        round_number=1,
        sender=COORDINATOR,
        receiver="north",
        counter=counter,
        sent=now,
        expires=now + 600,
    )


def ask(federation: FederationAtHome, request: pb.Request, *, counter: int) -> pb.Reply:
    """Send the north one request; its reply, or why its agent turned it away."""
    answer = federation.sites["north"].node(sealed(federation, request, counter=counter))
    if not isinstance(answer, bytes):
        return pb.Reply(refused=pb.Refused(reason=answer.reason))
    return pb.Reply.FromString(pb.Envelope.FromString(answer).payload)


def last_count(federation: FederationAtHome) -> tuple[pb.Request, bytes]:
    """The request to count that the north was sent, and its envelope."""
    for sent in reversed(federation.mail.sent):
        if sent.site == "north":
            payload = pb.Envelope.FromString(sent.content).payload
            request = pb.Request.FromString(payload)
            if request.HasField("count"):
                return request, sent.content
    raise AssertionError("nobody was asked to count")


def smaller(name: str, request: pb.Request) -> pb.Request:
    """Of three sites two are said to count."""
    changed = pb.Request.FromString(request.SerializeToString())
    if changed.HasField("count"):
        del changed.count.cohort.dealt[-1]
    return changed


def in_the_open(name: str, request: pb.Request) -> pb.Request:
    changed = pb.Request.FromString(request.SerializeToString())
    changed.count.ClearField("cohort")
    return changed if request.HasField("count") else request


def more_bins(name: str, request: pb.Request) -> pb.Request:
    changed = pb.Request.FromString(request.SerializeToString())
    changed.count.bins += 1
    return changed if request.HasField("count") else request


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (smaller, "expected at least 3 sites, got 2"),
        (in_the_open, "counts under masks if and only if"),
        (more_bins, "have 12 bins, and the coordinator asks for 13"),
    ],
)
def test_what_the_manifest_does_not_say_is_refused_and_costs_nothing(
    make: Callable[..., FederationAtHome], change: Callable[[str, pb.Request], pb.Request], why: str
) -> None:
    federation = make()
    folder = federation.create(**MASKED)
    with pytest.raises(ConfideError, match=why):
        count_at_sites(ChangingPost(federation.post(folder), change), folder)
    assert not any(site.charges() for site in federation.sites.values())
    # What was refused is nobody's answer: an honest coordinator gets its own.
    federation.count(folder)
    check_told(federation, folder, *SITES)


def test_a_second_sum_of_the_same_counts_is_refused(make: Callable[..., FederationAtHome]) -> None:
    """Noise is drawn once: two answers would have two noises, whose mean has less than was charged for."""
    federation = make()
    folder = federation.create(statistics=ASKED)
    federation.count(folder)
    request, _ = last_count(federation)
    other = pb.Request.FromString(request.SerializeToString())
    other.head = bytes.fromhex(federation.sites["north"].charges()[0].manifest)  # other words, no entry
    digest = folder.manifest.digest
    assert ask(federation, request, counter=50).counted.counts == (
        ask(federation, request, counter=51).counted.counts
    )
    assert "cannot use its ledger" in ask(federation, other, counter=52).refused.reason
    other = pb.Request(count=pb.Count(manifest_digest=digest, bins=12), head=b"")
    other.count.cohort.SetInParent()
    assert "if and only if" in ask(federation, other, counter=53).refused.reason
    assert len(federation.sites["north"].charges()) == 2


def again(federation: FederationAtHome) -> pb.Reply:
    """What a site says that is asked for its counts in other words, which its outbox does not know."""
    request, _ = last_count(federation)
    outbox = federation.sites["north"].path / "outbox"
    for path in outbox.glob("*.counted"):
        path.unlink()
    return ask(federation, request, counter=60)


def test_noise_is_drawn_once_whatever_a_site_forgot(make: Callable[..., FederationAtHome]) -> None:
    federation = make()
    folder = federation.create(statistics=ASKED)
    federation.count(folder)
    reply = again(federation)
    assert reply.refused.budget_spent
    assert "planned for 1 steps here and has taken 1" in reply.refused.reason
    assert len(federation.sites["north"].charges()) == 2


def test_what_was_charged_and_lost_is_not_drawn_again(
    make: Callable[..., FederationAtHome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The north fails once its charge is on the disk: the others' sum is told, and it has no second try."""
    federation = make()
    folder = federation.create(**TWO)
    places = statistics_site.places_of

    def failing(*asked: Any, **options: Any) -> Any:
        if not federation.sites["south"].charges():
            raise RuntimeError("the north's machine is out of memory")
        return places(*asked, **options)

    monkeypatch.setattr(statistics_site, "places_of", failing)
    federation.count(folder)
    assert set(folder.statistics.spent) == {"south", "west"}
    request, _ = last_count(federation)
    assert ask(federation, request, counter=60).refused.budget_spent
    assert len(federation.sites["north"].charges()) == 2


def test_without_its_ledgers_count_a_site_would_answer_twice(
    make: Callable[..., FederationAtHome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with a ledger that begins each charge anew, a second noise is there to average with."""
    federation = make()
    folder = federation.create(statistics=ASKED)
    federation.count(folder)
    request, _ = last_count(federation)
    first = ask(federation, request, counter=40).counted.counts
    reserved = ledgers.Reserved(taken=1, head="0" * 64)
    monkeypatch.setattr(ledgers.Ledger, "reserve", lambda _ledger, _charge: reserved)
    second = again(federation).counted.counts
    assert len(second) == len(first)
    assert second != first


@pytest.mark.parametrize("guarded", [True, False])
def test_a_second_sum_under_masks_is_refused_by_each_ledger(
    make: Callable[..., FederationAtHome], monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Sites deal for a sum of another number, and count for none; without the ledger they would."""
    federation = make()
    folder = federation.create(**MASKED)
    with pytest.raises(KeyboardInterrupt):
        count_at_sites(KilledAfter(federation.post(folder), "count"), folder)
    (folder.path / "answered.json").unlink()
    monkeypatch.setattr(statistics_round, "_NUMBER", 2)
    if guarded:
        with pytest.raises(BudgetError, match="planned for 1 steps here and has taken 1"):
            federation.count(folder)
        assert not folder.finished
    else:
        monkeypatch.setattr(
            ledgers.Ledger,
            "reserve",
            lambda ledger, _charge: ledgers.Reserved(taken=1, head=ledger._chain.history.head),
        )
        federation.count(folder)
        assert folder.finished
    assert [len(site.charges()) for site in federation.sites.values()] == [2, 2, 2]


def test_requests_for_training_come_to_nothing(make: Callable[..., FederationAtHome]) -> None:
    federation = make()
    folder = federation.create(**MASKED)
    federation.count(folder)
    digest = folder.manifest.digest
    for counter, request in enumerate(
        (
            pb.Request(train=pb.Train(manifest_digest=digest, round=1, adapter=bytes(8))),
            pb.Request(evaluate=pb.Evaluate(manifest_digest=digest, adapter=bytes(8))),
            pb.Request(open=pb.Open(manifest_digest=digest, number=1)),
        ),
        start=70,
    ):
        reply = ask(federation, request, counter=counter)
        assert reply.HasField("refused"), request
        assert "asked to" in reply.refused.reason
    _, envelope = last_count(federation)
    replayed = federation.sites["north"].node(envelope)
    assert isinstance(replayed, bytes)  # the same answer, and no other
    count = pb.Request(count=pb.Count(manifest_digest=digest, bins=12))
    strange = federation.sites["north"].node(sealed(federation, count, counter=99, key=Identity.generate()))
    assert not isinstance(strange, bytes)
    assert "signature" in strange.reason
    assert len(federation.sites["north"].charges()) == 2
