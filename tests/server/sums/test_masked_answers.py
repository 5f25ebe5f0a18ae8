"""Answers under masks that cannot be, or lie: a site is left out, or done without."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import ProtocolError, RunError
from privacy.secagg.roster import Member
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from tests.server.masked import (
    SITES,
    MaskedPost,
    changed,
    check_means,
    confirmation_of,
    ends,
    masked_folder,
    steps,
    without,
)
from tests.server.scripted import Act, Acts, go, identity


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return masked_folder(tmp_path / "run")


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
        ("join", changed(session_key=b"short"), "the session key of south in 32 bytes, got 5"),
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


def other(reply: Reply) -> Reply:
    """Shares as good as drawn: the same bit flipped in two of them could cancel out."""
    for share in reply.unmasked.shares:
        share.share = b"\0" + hashlib.sha256(share.share).digest()[2:] + b"\0"
    return reply


def cut(reply: Reply) -> Reply:
    reply.unmasked.shares[0].share = reply.unmasked.shares[0].share[:-1]
    return reply


def nowhere(reply: Reply) -> Reply:
    reply.unmasked.shares[0].place = 7
    return reply


@pytest.mark.parametrize("act", [other, cut, nowhere])
def test_lying_shares_are_done_without(folder: RunFolder, act: Act) -> None:
    acts: Acts = {("east", "unmask", 2): act, ("west", "train", 2): None}
    post = MaskedPost(folder, acts)
    go(folder, post)
    check_means(folder, post, set(SITES), without("west"), without("west", *["east"] * (act is not other)))


def test_more_liars_than_that_end_the_round(folder: RunFolder) -> None:
    post = MaskedPost(folder, {(site, "unmask", 1): other for site in ("arctic", "east", "west")})
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
    asked = [asked.unmask for site, asked in post.sent if site == "west" and asked.HasField("unmask")]
    passed_on = [[one.site for one in each.signatures] for each in asked]
    assert ["east" in sites for sites in passed_on] == [False, True, True]  # in the other rounds
    assert [len(sites) for sites in passed_on] == [folder.manifest.threshold] * 3
    # What it holds is asked for all the same: the others' signatures tell it whose sum it is.
    assert ("east", "unmask", 1, False) in post.asked


def test_too_many_bad_confirmations_end_the_round(folder: RunFolder) -> None:
    def act(reply: Reply) -> Reply:
        reply.confirmed.signature = bytes(64)
        return reply

    post = MaskedPost(folder, {(site, "confirm", 1): act for site in ("arctic", "east", "west")})
    error = ends(folder, post)
    assert isinstance(error, RunError)
    assert str(error) == "round 1: expected 3 sites to confirm the sum, got 2"
    assert "unmask" not in {kind for _, kind, _, _ in post.asked}
