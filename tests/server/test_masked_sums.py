"""Rounds under masks: the sum is exact whoever drops out, and the coordinator reads nothing else."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import AggregationError, ConfideError, ProtocolError, RunError, SiteError
from protocol import confide_pb2 as pb
from protocol.confide_pb2 import Reply
from protocol.update_encoding import make_encoding
from server.run_audit import audit_run
from server.run_folder import RunFolder
from tests.server.masked import SITES, THRESHOLD, MaskedPost, confirmation_of, masked_folder
from tests.server.runs import LAYOUT
from tests.server.scripted import Act, Acts, ScriptedPost, go, make_folder, run_job

REFUSED = SiteError("not with us", exit_code=2)
STAGES = ("deal", "train", "confirm", "unmask")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return masked_folder(tmp_path / "run")


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
    return [after - before for before, after in zip(adapters, adapters[1:], strict=False)]


def check_means(folder: RunFolder, post: MaskedPost, *present: set[str]) -> None:
    """Each round's step is the mean over those who are said to be in it, and its record says the same."""
    assert [record.present for record in folder.records()] == list(present)
    for number, (move, sites) in enumerate(zip(moves(folder), present, strict=True), start=1):
        mean = np.mean([post.update(site, number) for site in sites], axis=0)
        np.testing.assert_allclose(move, mean, atol=rounding(folder), err_msg=f"round {number}")


def without(*sites: str) -> set[str]:
    return set(SITES) - set(sites)


def steps(post: MaskedPost, site: str) -> list[tuple[str, int, bool]]:
    return [(kind, number, aside) for name, kind, number, aside in post.asked if name == site]


def ends(folder: RunFolder, post: MaskedPost) -> ConfideError:
    with pytest.raises(ConfideError) as caught:
        go(folder, post)
    return caught.value


# -- What a run is


@pytest.mark.parametrize("confirm", [True, False])
@pytest.mark.parametrize("bits", [16, 20, 32])
def test_a_run_is_as_without_masks_to_rounding(tmp_path: Path, bits: int, confirm: bool) -> None:
    folder = masked_folder(tmp_path / "run", aggregation={"modulus_bits": bits, "confirm": confirm})
    post = MaskedPost(folder)
    assert go(folder, post) == folder.records()
    check_means(folder, post, *[set(SITES)] * 3)
    open_folder = make_folder(tmp_path / "open", run_job(), cohort=5)
    plain = ScriptedPost(open_folder, sites=SITES)
    plain.update = post.update  # type: ignore[method-assign]
    go(open_folder, plain)
    np.testing.assert_allclose(
        folder.load_adapter(3, LAYOUT), open_folder.load_adapter(3, LAYOUT), atol=3 * rounding(folder)
    )
    audit_run(folder)


def test_a_mean_over_others_would_be_noticed(folder: RunFolder) -> None:
    """The check above tells a sum that lacks one site from one that does not."""
    post = MaskedPost(folder)
    go(folder, post)
    without_one = np.mean([post.update(site, 1) for site in SITES[:-1]], axis=0)
    assert np.abs(moves(folder)[0] - without_one).max() > 1e3 * rounding(folder)


def test_what_the_coordinator_reads_of_one_site_is_another_thing_each_time(tmp_path: Path) -> None:
    """The same updates, rounded the same but for one in their last bit: no word of an answer comes twice.

    A word repeats by chance with 2^-32, of 60 with less than 2e-8.
    """
    words = []
    for name in ("one", "two"):
        folder = masked_folder(tmp_path / name)
        post = MaskedPost(folder)
        go(folder, post)
        trained = [reply.trained for reply in post.replies if reply.HasField("trained")]
        assert len(trained) == 15
        words.append(np.concatenate([np.frombuffer(one.update, np.uint32) for one in trained]))
    assert not (words[0] == words[1]).any()


@pytest.mark.parametrize(("confirm", "messages"), [(True, 3), (False, 2)])
def test_messages_a_round(tmp_path: Path, confirm: bool, messages: int) -> None:
    """After the dealing of the first round; a post counts one byte for each exchange and direction."""
    folder = masked_folder(tmp_path / "run", aggregation={"confirm": confirm})
    post = MaskedPost(folder)
    records = go(folder, post)
    expected = ["train", "confirm", "unmask"] if confirm else ["train", "unmask"]
    for number in (1, 2, 3):
        kinds = [kind for name, kind, n, _ in post.asked if (name, n) == ("east", number)]
        assert kinds == (["join", "deal"] if number == 1 else []) + expected
    assert [record.bytes_up for record in records] == [messages + 1, messages, messages]
    assert [record.bytes_down for record in records] == [messages + 1, messages, messages]
    # Nothing is dealt for a sum that never comes.
    assert len(post.rosters()) == 3


def test_rules_that_are_not_safe_begin_no_run(tmp_path: Path) -> None:
    folder = masked_folder(tmp_path / "run", aggregation={"threshold": 2})
    post = MaskedPost(folder)
    with pytest.raises(AggregationError, match=r"threshold above 2\.5"):
        go(folder, post)
    assert post.asked == []


# -- Who drops out


@pytest.mark.parametrize("act", [None, REFUSED], ids=["silent", "refusing"])
@pytest.mark.parametrize("stage", STAGES)
def test_enough_are_left(tmp_path: Path, stage: str, act: Act) -> None:
    """Two of five drop out: whose update arrived before is in the sum, and no other."""
    folder = masked_folder(tmp_path / "run", rounds=4)
    number = 1 if stage == "deal" else 2
    post = MaskedPost(folder, {(site, stage, number): act for site in ("east", "west")})
    go(folder, post)
    everyone, rest = set(SITES), without("east", "west")
    after = everyone if act is None else rest
    expected = {
        # The secrets for a round are dealt with the answers of the one before: who was silent misses two.
        "deal": [rest, rest, after, after],
        "train": [everyone, rest, rest, after],
        "confirm": [everyone, everyone, after, after],
        "unmask": [everyone, everyone, after, after],
    }[stage]
    check_means(folder, post, *expected)
    later = [kind for kind, n, _ in steps(post, "east") if n > number]
    assert bool(later) == (act is None)
    audit_run(folder)


@pytest.mark.parametrize("act", [None, REFUSED], ids=["silent", "refusing"])
@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("deal", "dealing: expected answers from at least 3 sites in time, got 2"),
        ("train", "round 2: expected answers from at least 3 sites in time, got 2"),
        ("confirm", "confirming the sum: expected answers from at least 3 sites in time, got 2"),
        ("unmask", "uncovering the sum: expected answers from at least 3 sites in time, got 2"),
    ],
)
def test_too_few_are_left(folder: RunFolder, stage: str, words: str, act: Act) -> None:
    number = 1 if stage == "deal" else 2
    away = ("east", "south", "west")
    post = MaskedPost(folder, {(site, stage, number): act for site in away})
    error = ends(folder, post)
    if act is None:
        assert isinstance(error, RunError)
        assert words in str(error)
        assert all(f"{site}: it is not connected" in str(error) for site in away)
    else:
        assert error is REFUSED
    assert len(folder.records()) == number - 1
    # Nothing of the round is kept, and it is made again as soon as enough are there.
    again = MaskedPost(folder, before=post)
    go(folder, again)
    check_means(folder, again, *[set(SITES)] * 3)
    assert not set(post.numbers()) & set(again.numbers())


def test_refusals_one_by_one_leave_too_few(tmp_path: Path) -> None:
    """Each stage of a round had enough; the next round has too few to deal."""
    folder = masked_folder(tmp_path / "run", min_sites=4)
    acts: Acts = {("east", "confirm", 1): REFUSED, ("west", "unmask", 1): REFUSED}
    error = ends(folder, MaskedPost(folder, acts))
    assert isinstance(error, RunError)
    assert str(error) == "round 2: expected at least 4 sites to deal secrets, 3 take part"
    assert len(folder.records()) == 1


def test_who_refused_to_deal_is_not_asked_again(folder: RunFolder) -> None:
    post = MaskedPost(folder, {("east", "deal", 1): REFUSED})
    go(folder, post)
    assert steps(post, "east") == [("join", 1, False), ("deal", 1, False)]
    # Nor is it on the lists that others deal for.
    lists = [pb.Roster.FromString(*lists) for number, lists in post.rosters().items() if number > 1]
    assert all("east" not in [member.site for member in roster.members] for roster in lists)
    assert len(lists) == 2


def test_a_silent_site_comes_back(tmp_path: Path) -> None:
    folder = masked_folder(tmp_path / "run", rounds=4)
    post = MaskedPost(folder, {("south", "train", 2): None})
    go(folder, post)
    rest = without("south")
    check_means(folder, post, set(SITES), rest, rest, set(SITES))
    # Its secrets for round 3 were to come with its answer: it deals for round 4 meanwhile.
    assert steps(post, "south")[-4:] == [
        ("deal", 3, True),
        ("train", 4, False),
        ("confirm", 4, False),
        ("unmask", 4, False),
    ]


def test_a_silence_while_dealing_aside_costs_a_round_more(tmp_path: Path) -> None:
    folder = masked_folder(tmp_path / "run", rounds=5)
    post = MaskedPost(folder, {("south", "train", 2): None, ("south", "deal", 3): None})
    go(folder, post)
    rest = without("south")
    check_means(folder, post, set(SITES), rest, rest, rest, set(SITES))


def test_a_newcomer_joins_deals_and_trains(folder: RunFolder) -> None:
    """One round for each: it joins beside the first, deals beside the second, is in the third."""
    post = MaskedPost(folder, sites=SITES)
    first = iter([None, lambda reply: reply])
    south = ("south", "join", 1)
    ask = post.ask

    def asking(requests: Any, **how: Any) -> Any:
        if any(request.HasField("join") for request in {**requests, **(how["aside"] or {})}.values()):
            post.acts[south] = next(first)
        return ask(requests, **how)

    post.ask = asking  # type: ignore[method-assign]
    go(folder, post)
    assert steps(post, "south") == [
        ("join", 1, False),
        ("join", 1, True),
        ("deal", 2, True),
        ("train", 3, False),
        ("confirm", 3, False),
        ("unmask", 3, False),
    ]
    rest = without("south")
    check_means(folder, post, rest, rest, set(SITES))
    assert "south" in folder.public_keys
    audit_run(folder)


# -- Who lost its secrets


@pytest.mark.parametrize("stage", ["train", "confirm", "unmask"])
def test_a_site_that_lost_its_secrets_joins_again(
    tmp_path: Path, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = masked_folder(tmp_path / "run", rounds=5)
    post = MaskedPost(folder)
    post.before_it["south", stage, 2] = lambda: post.forget("south")
    with caplog.at_level(logging.WARNING):
        go(folder, post)
    rest = without("south")
    second = rest if stage == "train" else set(SITES)
    check_means(folder, post, set(SITES), second, rest, rest, set(SITES))
    assert [step for step in steps(post, "south") if step[1] > 2] == [
        ("join", 3, True),
        ("deal", 4, True),
        ("train", 5, False),
        ("confirm", 5, False),
        ("unmask", 5, False),
    ]
    assert "south is asked to join again: secrets: " in caplog.text
    assert "takes no further part" not in caplog.text
    audit_run(folder)


def test_where_all_are_needed_it_joins_again_at_once(tmp_path: Path) -> None:
    folder = masked_folder(tmp_path / "run", min_sites=None)
    post = MaskedPost(folder)
    post.before_it["south", "unmask", 1] = lambda: post.forget("south")
    go(folder, post)
    check_means(folder, post, *[set(SITES)] * 3)
    assert [kind for kind, n, _ in steps(post, "south") if n == 2] == [
        "join",
        "deal",
        "train",
        "confirm",
        "unmask",
    ]


def test_a_loss_that_leaves_too_few_is_told_and_mended(tmp_path: Path) -> None:
    folder = masked_folder(tmp_path / "run", min_sites=None)
    post = MaskedPost(folder)
    post.before_it["south", "train", 2] = lambda: post.forget("south")
    error = ends(folder, post)
    assert "south: secrets: this site has no secrets of this run any more" in str(error)
    again = MaskedPost(folder, before=post)
    go(folder, again)
    check_means(folder, again, *[set(SITES)] * 3)


@pytest.mark.parametrize("bits", [16, 32])
def test_a_site_that_joins_again_changes_no_sum_that_is_under_way(tmp_path: Path, bits: int) -> None:
    """It tells of other noise, while the others wait on the grid that the first told of made."""
    folder = masked_folder(tmp_path / "run", rounds=5, aggregation={"modulus_bits": bits})
    post = MaskedPost(folder)

    def forget() -> None:
        post.forget("south")
        post.noise_std = 40.0

    post.before_it["south", "train", 2] = forget
    # The last round's grid is coarse: only the four before it are compared.
    post.acts = {("south", "deal", 4): None}
    go(folder, post)
    tolerance = rounding(folder)
    rest = without("south")
    for number, (move, sites) in enumerate(zip(moves(folder), [set(SITES), rest, rest, rest], strict=False)):
        mean = np.mean([post.update(site, number + 1) for site in sites], axis=0)
        coarse = 0 if number < 3 else 40.0
        np.testing.assert_allclose(move, mean, atol=tolerance + coarse)


# -- Wrong answers


def changed(**fields: object) -> Act:
    def act(reply: Reply) -> Reply:
        inner = getattr(reply, str(reply.WhichOneof("kind")))
        for name, value in fields.items():
            setattr(inner, name, value)
        return reply

    return act


def dealing(change: Any) -> Act:
    def act(reply: Reply) -> Reply:
        change(reply.trained.next if reply.HasField("trained") else reply.dealing)
        return reply

    return act


def lacking(dealt: pb.Dealing) -> None:
    del dealt.sealed[-1]


def short(dealt: pb.Dealing) -> None:
    dealt.sealed[0] = dealt.sealed[0][:-1]


def keyless(dealt: pb.Dealing) -> None:
    dealt.key = b""


def nothing(dealt: pb.Dealing) -> None:
    dealt.Clear()


@pytest.mark.parametrize(
    ("stage", "act", "words"),
    [
        ("join", changed(noise_std=float("nan")), "expected a deviation"),
        ("join", changed(noise_std=float("inf")), "expected a deviation"),
        ("join", changed(noise_std=-1.0), "expected a deviation"),
        ("join", changed(session_key=bytes(32)), "did not sign its session key"),
        ("join", changed(session_key=b"short"), "did not sign its session key"),
        ("join", changed(session_signature=b""), "did not sign its session key"),
        ("deal", dealing(lacking), "expected shares for 4 neighbours of south, got 3"),
        ("deal", dealing(short), "the shares of south"),
        ("deal", dealing(keyless), "the key of south"),
        ("train", changed(update=b"1234"), "expected 4 words of 32 bits in 16 bytes, got 4"),
        ("train", changed(update=b""), "expected 4 words of 32 bits in 16 bytes, got 0"),
        ("train", changed(round=1), "south answered round 1, not round 2"),
        ("train", dealing(lacking), "expected shares for 4 neighbours of south, got 3"),
        ("train", dealing(nothing), "the key of south"),
    ],
)
def test_a_wrong_answer_leaves_its_site_out(
    folder: RunFolder, stage: str, act: Act, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    number = 2 if stage == "train" else 1
    post = MaskedPost(folder, {("south", stage, number): act})
    with caplog.at_level(logging.WARNING):
        go(folder, post)
    rest = without("south")
    check_means(folder, post, *[set(SITES) if n < number else rest for n in (1, 2, 3)])
    assert "south takes no further part" in caplog.text
    assert words in caplog.text
    assert [step for step in steps(post, "south") if step[1] > number] == []
    audit_run(folder)


def test_a_session_key_of_another_size_is_not_passed_on(folder: RunFolder) -> None:
    """The site signed it: only its length is wrong, and every other site would refuse the list."""
    from privacy.roster import Member
    from tests.server.scripted import identity

    def act(reply: Reply) -> Reply:
        member = Member.sign("south", b"short", identity=identity("south"), manifest=folder.manifest.digest)
        reply.joined.session_key, reply.joined.session_signature = member.key, member.signature
        return reply

    post = MaskedPost(folder, {("south", "join", 1): act})
    go(folder, post)
    check_means(folder, post, *[without("south")] * 3)


def test_too_many_wrong_answers_end_the_round(folder: RunFolder) -> None:
    wrong = {(site, "train", 1): changed(update=b"1234") for site in ("east", "south", "west")}
    error = ends(folder, MaskedPost(folder, wrong))
    assert isinstance(error, ProtocolError)
    assert folder.records() == []


def flip(reply: Reply) -> Reply:
    for share in reply.unmasked.shares:
        share.share = bytes([share.share[0] ^ 1]) + share.share[1:]
    return reply


def cut(reply: Reply) -> Reply:
    reply.unmasked.shares[0].share = reply.unmasked.shares[0].share[:-1]
    return reply


def nowhere(reply: Reply) -> Reply:
    reply.unmasked.shares[0].place = 7
    return reply


@pytest.mark.parametrize("act", [flip, cut, nowhere])
def test_lying_shares_are_done_without(folder: RunFolder, act: Act) -> None:
    acts: Acts = {("east", "unmask", 2): act, ("west", "train", 2): None}
    post = MaskedPost(folder, acts)
    go(folder, post)
    check_means(folder, post, set(SITES), without("west"), without("west", *["east"] * (act is not flip)))


def test_more_liars_than_that_end_the_round(folder: RunFolder) -> None:
    post = MaskedPost(folder, {(site, "unmask", 1): flip for site in ("arctic", "east", "west")})
    error = ends(folder, post)
    assert isinstance(error, RunError)
    assert "round 1: its sum cannot be uncovered: share: the shares of a secret of" in str(error)
    assert folder.records() == []


@pytest.mark.parametrize("content", [b"", b"x" * 32])
def test_a_bad_confirmation_is_not_counted(
    folder: RunFolder, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are passed on: a site would refuse a list with a signature that does not fit."""

    def act(reply: Reply) -> Reply:
        reply.confirmed.CopyFrom(confirmation_of("east", content))
        return reply

    post = MaskedPost(folder, {("east", "confirm", 1): act})
    with caplog.at_level(logging.WARNING):
        go(folder, post)
    check_means(folder, post, *[set(SITES)] * 3)
    assert "east confirmed something else" in caplog.text
    signed = [one.site for site, request in post.sent for one in request.unmask.signatures if site == "east"]
    assert Counter(signed)["east"] == 2  # in the other rounds


def test_too_many_bad_confirmations_end_the_round(folder: RunFolder) -> None:
    def act(reply: Reply) -> Reply:
        reply.confirmed.signature = bytes(64)
        return reply

    post = MaskedPost(folder, {(site, "confirm", 1): act for site in ("arctic", "east", "west")})
    error = ends(folder, post)
    assert isinstance(error, RunError)
    assert str(error) == "round 1: expected 3 sites to confirm the sum, got 2"
    assert "unmask" not in {kind for _, kind, _, _ in post.asked}


# -- After a kill


@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_killed_round_is_made_again_under_new_numbers(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int, forgetful: bool
) -> None:
    """After its sum was uncovered; the sites keep their secrets, or not."""
    post, finish = MaskedPost(folder), RunFolder.finish_round

    def killed(self: RunFolder, record: Any, *rest: Any) -> None:
        if record.round == number:
            raise KeyboardInterrupt
        finish(self, record, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", killed)
        with pytest.raises(KeyboardInterrupt):
            go(folder, post)
    again = MaskedPost(folder, before=post, forgetful=forgetful)
    go(folder, again)
    check_means(folder, again, *[set(SITES)] * 3)
    # Each list of sites had a number of its own, before the kill and after it.
    assert not post.rosters().keys() & again.rosters().keys()
    for rosters in (post.rosters(), again.rosters()):
        assert all(len(lists) == 1 for lists in rosters.values())
    assert len(again.numbers()) == 4 - number
    assert min(again.rosters()) > max(post.rosters())


@pytest.mark.parametrize("calls", range(1, 5))
def test_a_number_that_was_taken_is_never_given_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Killed as soon as it is on disk, and before anyone heard of it."""
    post, take, taken = MaskedPost(folder), RunFolder.take_counter, []

    def killed(self: RunFolder) -> int:
        taken.append(take(self))
        if len(taken) == calls:
            raise KeyboardInterrupt
        return taken[-1]

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "take_counter", killed)
        if calls == 4:
            go(folder, post)  # three sums, each number taken once
        else:
            with pytest.raises(KeyboardInterrupt):
                go(folder, post)
    assert taken == sorted(set(taken))
    again = MaskedPost(folder, before=post)
    go(folder, again)
    assert not set(taken) & again.rosters().keys()
    check_means(folder, again, *[set(SITES)] * 3)


def test_a_kill_between_stages_leaves_no_sum_open_twice(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sites confirmed the old sum and never uncovered it: they deal and mask anew."""
    post = MaskedPost(folder)
    post.before_it["arctic", "unmask", 2] = interrupt
    with pytest.raises(KeyboardInterrupt):
        go(folder, post)
    again = MaskedPost(folder, {("west", "train", 2): None}, before=post)
    go(folder, again)
    check_means(folder, again, set(SITES), without("west"), without("west"))
    old = post.numbers()[-1]
    assert all(request.unmask.number != old for _, request in again.sent)


def interrupt() -> None:
    raise KeyboardInterrupt


# -- Metrics


def measured(tmp_path: Path) -> RunFolder:
    return masked_folder(tmp_path / "run", metrics=0.5)


def test_metrics_are_a_sum_and_nothing_of_one_site(tmp_path: Path) -> None:
    """Each of five sites has one right answer of two."""
    folder = measured(tmp_path)
    go(folder, MaskedPost(folder))
    metrics = folder.metrics
    assert metrics is not None
    assert (metrics.total.right, metrics.total.examples) == (5 * 2**30, 10)
    assert metrics.told_by == SITES
    table = json.loads((folder.path / "metrics.json").read_text())
    assert table["sites"] == {}
    assert table["told_by"] == list(SITES)
    assert sorted(folder.receipts("metrics")) == list(SITES)
    assert audit_run(folder).metrics == 0.5


def test_metrics_of_those_who_answer(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    acts: Acts = {("east", "evaluate", 3): None, ("west", "evaluate", 3): REFUSED}
    post = MaskedPost(folder, acts)
    go(folder, post)
    metrics = folder.metrics
    assert metrics is not None
    assert metrics.told_by == ("arctic", "north", "south")
    assert (metrics.total.right, metrics.total.examples) == (3 * 2**30, 6)
    assert audit_run(folder).metrics == 0.5
    # The secrets for them came with the last round's answers.
    assert [kind for kind, n, _ in steps(post, "north") if n == 3] == [
        "train",
        "confirm",
        "unmask",
        "evaluate",
        "confirm",
        "unmask",
    ]


def test_too_few_metrics_are_asked_for_again(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    post = MaskedPost(folder, {(site, "evaluate", 3): None for site in ("east", "south", "west")})
    assert "metrics: expected answers from at least 3 sites in time, got 2" in str(ends(folder, post))
    again = MaskedPost(folder, before=post)
    go(folder, again)
    assert folder.metrics is not None
    assert folder.metrics.told_by == SITES
    # Nothing but metrics was asked for, with secrets of their own.
    assert {kind for _, kind, _, _ in again.asked} == {"join", "deal", "evaluate", "confirm", "unmask"}


@pytest.mark.parametrize(("fields", "words"), [({"masked": b"1"}, "expected 2 words of 64 bits")])
def test_metrics_that_are_too_short_leave_their_site_out(
    tmp_path: Path, fields: dict[str, object], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = measured(tmp_path)
    with caplog.at_level(logging.WARNING):
        go(folder, MaskedPost(folder, {("south", "evaluate", 3): changed(**fields)}))
    assert words in caplog.text
    assert folder.metrics is not None
    assert folder.metrics.told_by == ("arctic", "east", "north", "west")


def test_metrics_that_add_up_to_what_cannot_be(tmp_path: Path) -> None:
    """Under masks nobody knows who said so: there are no metrics."""
    folder = measured(tmp_path)
    error = ends(folder, MaskedPost(folder, {("south", "evaluate", 3): changed(masked=b"\xff" * 16)}))
    assert isinstance(error, ProtocolError)
    assert "the sites' metrics add up to what cannot be" in str(error)
    assert folder.metrics is None
    assert len(folder.records()) == 3


def test_the_threshold_is_that_of_the_folder(folder: RunFolder) -> None:
    assert (folder.manifest.threshold, folder.manifest.fewest) == (THRESHOLD, THRESHOLD)
