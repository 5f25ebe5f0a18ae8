"""Rounds under masks: the sum is exact whoever drops out, and the coordinator reads nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import AggregationError, RunError, SiteError
from privacy.secagg import roster as roster_module
from privacy.secagg.committee import Committee
from privacy.secagg.graph import Circle, join_around
from protocol.messages import confide_pb2 as pb
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from tests.server.masked import (
    SITES,
    MaskedPost,
    check_means,
    ends,
    masked_folder,
    moves,
    rounding,
    steps,
    without,
)
from tests.server.runs import LAYOUT
from tests.server.scripted import Act, Acts, ScriptedPost, go, make_folder, run_job

REFUSED = SiteError("not with us", exit_code=2)
STAGES = ("deal", "train", "confirm", "unmask")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return masked_folder(tmp_path / "run")


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
    assert str(error) == "round 2: expected at least 4 sites for a sum, 3 take part"
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


class SilentOnce(dict):
    """Acts of a site that is silent when it is first asked to deal in a round, and answers later in it."""

    def __init__(self, acts: Acts, *, site: str, number: int) -> None:
        super().__init__(acts)
        self.key, self.asked = (site, "deal", number), False

    def get(self, key: Any, default: Any = None) -> Any:
        if key == self.key and not self.asked:
            self.asked = True
            return None
        return super().get(key, default)


def test_who_is_back_before_the_sum_is_uncovered_deals_in_time(tmp_path: Path) -> None:
    """Not while the others train: while they confirm."""
    folder = masked_folder(tmp_path / "run", rounds=4)
    post = MaskedPost(folder)
    post.acts = SilentOnce({("south", "train", 2): None}, site="south", number=3)
    go(folder, post)
    rest = without("south")
    check_means(folder, post, set(SITES), rest, rest, set(SITES))
    assert steps(post, "south")[-5:-3] == [("deal", 3, True), ("deal", 3, True)]


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
        if any(
            request.HasField("join") for request in {**requests, **(how["side_requests"] or {})}.values()
        ):
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
    # Round 4 is the first whose list it is on again: only those before it have the old grid.
    go(folder, post)
    tolerance = rounding(folder)
    rest = without("south")
    for number, (move, sites) in enumerate(zip(moves(folder)[:3], (set(SITES), rest, rest), strict=True)):
        mean = np.mean([post.update(site, number + 1) for site in sites], axis=0)
        np.testing.assert_allclose(move, mean, atol=tolerance)


# -- Where a committee signs


@pytest.fixture
def three_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five sites mask around a ring; three of them may sign, and two must."""
    ring = join_around(range(5), Circle(degree=2, threshold=2))
    monkeypatch.setattr(roster_module, "make_graph", lambda *_, **__: ring)
    three = Committee(places=(0, 2, 4), quorum=2)
    monkeypatch.setattr(roster_module, "make_committee", lambda *_, **__: three)


@pytest.mark.usefixtures("three_sign")
def test_members_of_a_committee_confirm_and_all_reveal(folder: RunFolder) -> None:
    """One member is silent when it is asked to confirm."""
    post = MaskedPost(folder, {("west", "confirm", 1): None})
    go(folder, post)
    check_means(folder, post, *[set(SITES)] * 3)
    asked = {(site, number) for site, kind, number, _ in post.asked if kind == "confirm"}
    assert asked == {(site, number) for site in ("arctic", "north", "west") for number in (1, 2, 3)}
    revealed = {(site, number) for site, kind, number, _ in post.asked if kind == "unmask"}
    assert revealed == {(site, number) for site in SITES for number in (1, 2, 3)}
    passed_on = [request.unmask for _, request in post.sent if request.HasField("unmask")]
    assert {len(one.signatures) for one in passed_on} == {2}
    audit_run(folder)


@pytest.mark.usefixtures("three_sign")
def test_a_committee_without_a_quorum_ends_the_round(folder: RunFolder) -> None:
    post = MaskedPost(folder, {(site, "confirm", 1): None for site in ("arctic", "west")})
    error = ends(folder, post)
    assert "confirming the sum: expected answers from at least 2 sites in time, got 1" in str(error)
    assert "unmask" not in {kind for _, kind, _, _ in post.asked}
