"""Homomorphic sums at the coordinator: who is asked what, what is not believed, and whole runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import (
    AggregationError,
    ConfideError,
    JobError,
    LostError,
    ProtocolError,
    RunError,
    SiteError,
    UserError,
)
from privacy.secagg.ckks.ciphertexts import Parameters
from privacy.secagg.ckks.homomorphic import longest_content
from protocol.job.job_file import parse_job
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Confirmed, Evaluate, Joined, Opened, Reply, Request, Train
from protocol.messages.vector import to_bytes
from protocol.sums.ciphertext_messages import OPEN_MAX, check_sum_size
from protocol.sums.sum_kinds import check_sums
from protocol.sums.update_encoding import update_reach
from runs.progress import Silence
from runs.run_folder import RoundRecord, RunFolder
from server.post.post import Exchange, check_answers
from server.sums.homomorphic_sums import HomomorphicSums
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.client.encrypting import (
    ERROR,
    MANIFEST,
    REACH,
    SITES,
    SIZE,
    UPDATES,
    Encrypting,
    plain_sum,
)
from tests.server.runs import LAYOUT, make_job

# What a site does instead of answering: refuse, say nothing, or change its answer.
Act = None | ConfideError | Callable[[Reply], Reply]
REFUSED = SiteError("it refused")


class Federation:
    """Sites that answer as their sessions do, or as ``acts`` say by site and kind, and a coordinator."""

    def __init__(self, sites: Encrypting | None = None) -> None:
        self.sites = sites or Encrypting()
        self.acts: dict[tuple[str, str], Act] = {}
        self.asked: list[tuple[str, str]] = []
        self.number = 0
        self.requests: list[Request] = []
        self.sums = HomomorphicSums(
            MANIFEST, update_size=SIZE, plan=None, take_number=self.take_number, ask=self.ask
        )

    def take_number(self) -> int:
        self.number += 1
        return self.number

    def join(self, *sites: str) -> None:
        for site in sites or SITES:
            self.sums.join(site, joined(self.sites, site))

    def ask(self, requests: Mapping[str, Request], number: int, *, enough: int | None = None) -> Exchange:
        replies: dict[str, Reply] = {}
        refused: dict[str, ConfideError] = {}
        silent: dict[str, str] = {}
        for site, request in requests.items():
            kind = str(request.WhichOneof("kind"))
            self.asked.append((site, kind))
            self.requests.append(request)
            act = self.acts.get((site, kind), lambda reply: reply)
            if act is None:
                silent[site] = "it is not connected"
                continue
            try:
                if isinstance(act, ConfideError):
                    raise act
                reply = act(self.answer(site, request))
                check_answers(kind, reply)
                replies[site] = self.sums.take(site, reply)
            except ConfideError as error:
                refused[site] = error
        return Exchange(replies=replies, refused=refused, silent=silent)

    def answer(self, site: str, request: Request) -> Reply:
        session = self.sites.sessions[site]
        if request.HasField("deal"):
            return Reply(site=site, dealing=session.deal(request.deal.roster))
        if request.HasField("train"):
            session.check(request.train)
            return Reply(site=site, trained=session.contribute(UPDATES[site], request.train, reach=REACH))
        if request.HasField("confirm"):
            return Reply(site=site, confirmed=Confirmed(signature=session.confirm(request.confirm)))
        return Reply(site=site, opened=session.open_sum(request.open, update_size=SIZE, reach=REACH))

    def train(self, *members: str) -> Exchange:
        self.sums.prepare(members or SITES, 1)
        return self.ask(self.sums.train(Train(round=1), following=()), 1)

    def round(self, *members: str) -> np.ndarray:
        return self.mean(self.train(*members))

    def mean(self, answers: Exchange) -> np.ndarray:
        return self.sums.aggregate({site: reply.trained for site, reply in answers.replies.items()}, {}, 1)

    def who(self, kind: str) -> list[str]:
        """Who was asked for one kind of thing, in order, since this was asked last."""
        found = [site for site, asked in self.asked if asked == kind]
        self.asked.clear()
        return found


def joined(sites: Encrypting, site: str) -> Joined:
    member = sites.members[site]
    return Joined(
        manifest_digest=MANIFEST.digest,
        public_key=member.identity,
        session_key=member.key,
        session_signature=member.signature,
    )


@pytest.fixture
def federation() -> Federation:
    pytest.importorskip("tenseal")
    federation = Federation()
    federation.join()
    return federation


def assert_mean(found: np.ndarray, sites: tuple[str, ...] = SITES) -> None:
    # Each update is off by ERROR at most, so is their mean; sum and mean are rounded to float32.
    assert found.dtype == np.float32
    bound = ERROR + 2 * REACH * 2.0**-24
    assert np.abs(found - plain_sum(sites) / len(sites)).max() <= bound


# What is not believed.


def test_a_session_key_that_its_site_did_not_sign(federation: Federation) -> None:
    told = joined(federation.sites, "east")
    told.session_key = bytes(32)
    with pytest.raises(ProtocolError, match="east did not sign its session key"):
        federation.sums.join("east", told)


def test_a_session_key_of_another_size(federation: Federation) -> None:
    told = joined(federation.sites, "east")
    told.session_key = bytes(31)
    with pytest.raises(AggregationError, match="size: expected the session key of east in 32 bytes"):
        federation.sums.join("east", told)


def changed(**changes: bytes) -> Callable[[Reply], Reply]:
    def change(reply: Reply) -> Reply:
        for name, value in changes.items():
            setattr(getattr(reply, str(reply.WhichOneof("kind"))), name, value)
        return reply

    return change


def without_parts(reply: Reply) -> Reply:
    del reply.dealing.sealed[1:]
    return reply


BROKEN: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "nothing": (changed(update=b""), "ciphertext: east did not sign"),
    "no signature": (changed(signature=b""), "size: expected the signature of east"),
    "another signature": (changed(signature=bytes(64)), "ciphertext: east did not sign"),
    "too many bytes": (changed(update=bytes(longest_content(SIZE) + 1)), "size: expected ciphertexts of"),
    "plain numbers": (changed(update=to_bytes(UPDATES["east"])), "ciphertext: east did not sign"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_ciphertexts_that_are_turned_down(federation: Federation, what: str) -> None:
    act, said = BROKEN[what]
    federation.acts["east", "train"] = act
    answers = federation.train()
    assert sorted(answers.replies) == ["north", "south", "west"]
    with pytest.raises(AggregationError, match=said):
        raise answers.refused["east"]
    federation.acts.clear()
    assert_mean(federation.mean(answers), ("north", "south", "west"))


def test_bytes_that_are_signed_and_no_ciphertexts(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens the sum would refuse it, and the round be lost for one site."""
    federation.sums.prepare(SITES, 1)
    requests = federation.sums.train(Train(round=1), following=())
    with monkeypatch.context() as broken:
        broken.setattr("privacy.secagg.ckks.homomorphic_sum.encrypt", lambda *_, **__: b"\0" * 60_000)
        first = federation.ask({"east": requests["east"]}, 1)
    assert "expected 1 ciphertexts" in str(first.refused["east"])


def test_too_few_sites_for_a_sum(federation: Federation) -> None:
    with pytest.raises(RunError, match="expected at least 3 sites for a sum, 2 take part"):
        federation.sums.prepare(["east", "north"], 1)


@pytest.mark.parametrize("act", [None, REFUSED, without_parts, changed(key=b"")])
def test_a_site_that_does_not_deal_is_passed_over(federation: Federation, act: Act) -> None:
    federation.acts["east", "deal"] = act
    federation.sums.prepare(SITES, 1)
    assert federation.who("deal") == ["east", "north"]


def test_nobody_deals(federation: Federation) -> None:
    federation.acts.update({(site, "deal"): REFUSED for site in SITES})
    with pytest.raises(SiteError, match="it refused"):
        federation.sums.prepare(SITES, 1)
    federation.join()
    federation.acts.update({(site, "deal"): None for site in SITES})
    with pytest.raises(RunError, match="dealing the key: no answer from west: it is not connected"):
        federation.sums.prepare(SITES, 1)


@pytest.mark.parametrize(
    "act", [None, REFUSED, changed(sum=b""), changed(sum=to_bytes(np.full(SIZE, np.nan, np.float32)))]
)
def test_a_site_that_does_not_open_is_passed_over(federation: Federation, act: Act) -> None:
    answers = federation.train()
    federation.acts["east", "open"] = act
    assert_mean(federation.mean(answers))
    assert federation.who("open") == ["east", "north"]


def test_nobody_opens(federation: Federation) -> None:
    answers = federation.train()
    federation.acts.update({(site, "open"): REFUSED for site in SITES})
    with pytest.raises(SiteError, match="it refused"):
        federation.mean(answers)


def test_who_does_not_confirm_is_not_asked_to_open(federation: Federation) -> None:
    answers = federation.train()
    federation.acts["east", "confirm"] = changed(signature=bytes(64))
    assert_mean(federation.mean(answers))
    assert federation.who("open") == ["north"]


def test_too_few_confirm(federation: Federation) -> None:
    answers = federation.train()
    federation.acts["east", "confirm"] = changed(signature=bytes(64))
    federation.acts["north", "confirm"] = None
    with pytest.raises(RunError, match="expected 3 sites to confirm the sum, got 2"):
        federation.mean(answers)
    assert federation.who("open") == []


def test_metrics_are_of_other_sums(federation: Federation) -> None:
    with pytest.raises(ProtocolError, match="expected no metrics"):
        federation.sums.evaluate(Evaluate())
    with pytest.raises(ProtocolError, match="expected no metrics"):
        federation.sums.metrics({}, 1)


def test_nothing_is_asked_before_a_sum_is_prepared(federation: Federation) -> None:
    with pytest.raises(RunError, match="no sum was prepared"):
        federation.sums.train(Train(), following=())


# Who is asked what.


def test_a_round(federation: Federation) -> None:
    assert_mean(federation.round())
    assert federation.asked == [
        ("east", "deal"),
        *((site, "train") for site in SITES),
        *((site, "confirm") for site in SITES),
        ("east", "open"),
    ]


def test_the_key_is_dealt_once(federation: Federation) -> None:
    for number in range(1, 4):
        assert_mean(federation.round())
        assert federation.who("deal") == (["east"] if number == 1 else [])
    sealed = [
        len(request.train.cohort.dealt[0].sealed)
        for request in federation.requests
        if request.HasField("train")
    ]
    assert all(sealed[1:4])
    assert not any([sealed[0], *sealed[4:]])


@pytest.mark.parametrize("missing", SITES)
def test_a_site_drops_out_and_comes_back(federation: Federation, missing: str) -> None:
    others = tuple(site for site in SITES if site != missing)
    federation.acts[missing, "train"] = None
    assert_mean(federation.round(), others)
    federation.acts.clear()
    federation.who("deal")
    # It may not have the key: one that has deals it once more.
    assert_mean(federation.round())
    assert federation.who("deal") == ([] if missing == "east" else ["east"])


def test_a_site_comes_later(federation: Federation) -> None:
    assert_mean(federation.round("east", "north", "south"), ("east", "north", "south"))
    federation.who("deal")
    assert_mean(federation.round())
    assert federation.who("deal") == ["east"]


def test_a_site_that_has_the_key_deals_it_before_one_that_has_not(federation: Federation) -> None:
    assert_mean(federation.round("north", "south", "west"), ("north", "south", "west"))
    federation.who("deal")
    assert_mean(federation.round())
    assert federation.who("deal") == ["north"]


def test_the_dealer_leaves(federation: Federation) -> None:
    federation.round()
    federation.who("deal")
    assert_mean(federation.round("north", "south", "west"), ("north", "south", "west"))
    assert federation.who("deal") == []


def test_a_coordinator_that_comes_back(federation: Federation) -> None:
    """It knows nothing of who has the key, and the sites nothing of its having gone."""
    federation.round()
    again = Federation(federation.sites)
    again.number = federation.number
    again.join()
    assert_mean(again.round())


def test_a_site_that_lost_its_secrets(federation: Federation) -> None:
    federation.round()
    federation.sites.sessions["north"], federation.sites.members["north"] = fresh("north")
    with pytest.raises(LostError, match="join again"):
        raise federation.train().refused["north"]
    federation.join("north")
    assert_mean(federation.round())


def fresh(site: str) -> tuple[Any, Any]:
    other = Encrypting()
    return other.sessions[site], other.members[site]


# Whole runs.


@pytest.fixture(scope="module")
def needs_tenseal() -> None:
    pytest.importorskip("tenseal")


CHANGES: dict[str, Any] = {
    "seeds": {"noise": 3},
    "strategy": {"name": "ffa"},
    "training": {"rounds": 2},
}


@pytest.mark.usefixtures("needs_tenseal")
def test_a_whole_run_has_the_plain_mean(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, aggregation={"kind": "homomorphic"}, **CHANGES)
    simulate(job, runs=tmp_path, name="summed")
    simulate(tiny.job(tiny_folder, aggregation={"kind": "none"}, **CHANGES), runs=tmp_path, name="plain")
    layout = World(job).adapted.layout
    summed, plain = (RunFolder.open(tmp_path / name) for name in ("summed", "plain"))
    one, other = (folder.load_adapter(1, layout) for folder in (summed, plain))
    error = update_reach(job) / Parameters(sites=3).steps / 2
    # Sum and mean are rounded to float32, and so is the adapter that the mean is added to.
    rounding = 4 * np.abs(other).max() * 2.0**-24
    assert 0 < np.abs(one - other).max() <= error + rounding
    assert [len(record.epsilon) for record in summed.records()] == [3, 3]
    assert not any(record.absent for record in summed.records())


@pytest.mark.exhaustive
@pytest.mark.usefixtures("needs_tenseal")
def test_a_run_is_resumed(tiny_folder: Path, tmp_path: Path) -> None:
    """Between two rounds all that the coordinator and the simulated sites had in memory is gone."""
    job = tiny.job(tiny_folder, aggregation={"kind": "homomorphic"}, **CHANGES)

    with pytest.raises(KeyboardInterrupt):
        simulate(job, runs=tmp_path, name="run", progress=Interrupting())
    assert len(RunFolder.open(tmp_path / "run").records()) == 1
    resume(tmp_path / "run")
    assert len(RunFolder.open(tmp_path / "run").records()) == 2


class Interrupting(Silence):
    def round(self, record: RoundRecord) -> None:
        raise KeyboardInterrupt


# What no run is made of.


def test_without_tenseal_no_run_is_made(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    job = tiny.job(tiny_folder, aggregation={"kind": "homomorphic"})
    with pytest.raises(UserError, match="need TenSEAL"):
        simulate(job, runs=tmp_path, name="run")
    assert not (tmp_path / "run").exists()


JOBS: dict[str, tuple[dict[str, Any], str]] = {
    "compressed": (
        {"compression": {"kind": "random", "share": 0.5}, "strategy": {"name": "ffa"}},
        'compression.kind: expected "none" with aggregation.kind="homomorphic"',
    ),
    "whole sites": (
        {"privacy": {"unit": "site", "mechanism": "gaussian", "noise": "central"}},
        'privacy.unit: expected "example" with aggregation.kind="homomorphic"',
    ),
    "metrics": (
        {"metrics": {"epsilon": 1.0}},
        'metrics.epsilon: expected 0 with aggregation.kind="homomorphic"',
    ),
    "a threshold": ({"aggregation": {"modulus_bits": 16}}, "unknown key of kind='homomorphic'"),
    "colluding sites": ({"aggregation": {"colluding": 1}}, "unknown key of kind='homomorphic'"),
    "nobody confirms": ({"aggregation": {"confirm": False}}, "unknown key of kind='homomorphic'"),
}


@pytest.mark.parametrize("what", JOBS)
def test_jobs_that_cannot_be(tmp_path: Path, what: str) -> None:
    changes, said = JOBS[what]
    table = tiny.table(tmp_path) | {"aggregation": {"kind": "homomorphic"}}
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    with pytest.raises(JobError, match=said):
        parse_job(table)


def manifest_of(cohort: int, **federation: int) -> Manifest:
    job = make_job(aggregation={"kind": "homomorphic"}, federation=federation)
    return Manifest(
        run="run",
        job=job,
        cohort=cohort,
        labels=("bad", "good"),
        model_digest="ab" * 32,
        layout_digest=LAYOUT.digest,
    )


@pytest.mark.usefixtures("needs_tenseal")
@pytest.mark.parametrize(
    ("cohort", "min_sites", "said"),
    [
        (1, 1, 'aggregation.kind="homomorphic": expected two sites or more'),
        (9, 6, "min_sites=6: in homomorphic sums a round needs aggregation.threshold=7 of 9"),
        (1025, 1025, "expected 2 to 1024 sites"),
    ],
)
def test_federations_that_cannot_sum_so(cohort: int, min_sites: int, said: str) -> None:
    with pytest.raises(JobError, match=said):
        check_sums(manifest_of(cohort, min_sites=min_sites))


def test_more_ciphertexts_than_a_site_can_be_sent() -> None:
    most = next(size for size in range(1, 10**8, 4096) if 4 * longest_content(size + 4096) > OPEN_MAX)
    check_sum_size(MANIFEST, update_size=most)
    with pytest.raises(JobError, match=f"expected at most {OPEN_MAX} bytes"):
        check_sum_size(MANIFEST, update_size=most + 4096)


def test_an_opened_sum_answers_open() -> None:
    check_answers("open", Reply(site="east", opened=Opened()))
    with pytest.raises(ProtocolError, match="answered open with confirmed"):
        check_answers("open", Reply(site="east", confirmed=Confirmed()))
