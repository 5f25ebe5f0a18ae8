"""Sums grow as answers come: once a site, only by answers that passed every check, and keep no update."""

from __future__ import annotations

import logging
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import ProtocolError, RunError
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply, Train
from protocol.messages.vector import to_bytes
from protocol.sums.update_encoding import plan_for_site
from server.post.post import Exchange
from server.sums.contributors import Contributors
from server.sums.masked_sums import MaskedSums
from server.sums.requests import Requests
from server.sums.sums import PlainSums, without_update
from tests.server.masked import SITES, MaskedPost, changed, check_means, masked_folder, without
from tests.server.runs import LAYOUT, make_job
from tests.server.scripted import ScriptedPost, go, make_folder, run_job

CENTRAL = {"unit": "site", "noise": "central", "mechanism": "none", "clipping_norm": 0.5}
SIZE = 1000


def unasked(*_: Any, **__: Any) -> Exchange:
    raise AssertionError("sums that anyone can read ask for nothing")


def plain_sums(**sections: Any) -> PlainSums:
    job = make_job(strategy={"name": "ffa"}, **sections)
    manifest = Manifest(
        run="run", job=job, cohort=3, labels=("bad", "good"), model_digest="", layout_digest=LAYOUT.digest
    )
    plan = plan_for_site(manifest, update_size=SIZE) if job.privacy.hides_sites else None
    return PlainSums(manifest, update_size=SIZE, plan=plan, take_number=int, ask=unasked)


def trained(site: str) -> Reply:
    update = np.random.default_rng(ord(site)).standard_normal(SIZE).astype(np.float32)
    return Reply(site=site, trained=pb.Trained(round=1, update=to_bytes(update)))


@pytest.mark.parametrize("privacy", [{}, CENTRAL], ids=["example", "site"])
def test_a_mean_does_not_depend_on_who_came_first(privacy: dict[str, Any]) -> None:
    sums = plain_sums(privacy=privacy)
    found = set()
    for order in permutations("abc"):
        sums.train(Train(), following=())
        kept = {site: sums.take(site, trained(site)).trained for site in order}
        assert not any(one.update for one in kept.values())
        found.add(sums.aggregate(kept, {}, 1).tobytes())
    assert len(found) == 1


def test_a_site_is_in_a_sum_once() -> None:
    sums = plain_sums()
    kept = {site: sums.take(site, trained(site)).trained for site in "ab"}
    with pytest.raises(ProtocolError, match="b sent a second update for one sum"):
        sums.take("b", trained("b"))
    expected = sums.aggregate(kept, {}, 1)
    updates = [np.frombuffer(trained(site).trained.update, "<f4") for site in "ab"]
    assert expected.tobytes() == np.mean(updates, axis=0, dtype=np.float64).astype(np.float32).tobytes()


def test_an_update_that_cannot_be_is_in_no_sum() -> None:
    sums = plain_sums()
    spoilt = trained("b")
    spoilt.trained.update = spoilt.trained.update[:-4] + np.array([np.nan], "<f4").tobytes()
    kept = {"a": sums.take("a", trained("a")).trained}
    for bad in (spoilt, Reply(site="b", trained=pb.Trained(round=1, update=bytes(4 * SIZE - 1)))):
        with pytest.raises(ProtocolError):
            sums.take("b", bad)
    kept["b"] = sums.take("b", trained("b")).trained
    updates = [np.frombuffer(trained(site).trained.update, "<f4") for site in "ab"]
    found = sums.aggregate(kept, {}, 1)
    assert found.tobytes() == np.mean(updates, axis=0, dtype=np.float64).astype(np.float32).tobytes()


def test_a_round_that_is_asked_for_anew_begins_with_nobody() -> None:
    sums = plain_sums()
    sums.take("a", trained("a"))
    sums.train(Train(), following=())
    kept = {"b": sums.take("b", trained("b")).trained}
    assert sums.aggregate(kept, {}, 1).tobytes() == trained("b").trained.update


def test_a_sum_of_others_than_those_of_the_round_is_not_read() -> None:
    sums = plain_sums()
    kept = {site: sums.take(site, trained(site)).trained for site in "ab"}
    with pytest.raises(RunError, match="but for b"):
        sums.aggregate({"a": kept["a"]}, {}, 1)
    sites = Contributors()
    sites.add("a")
    with pytest.raises(RunError, match="but for c"):
        sites.check_all({"a", "c"})


def test_what_is_kept_of_an_answer_is_all_but_its_update() -> None:
    reply = trained("a")
    reply.trained.receipt.content = b"receipt"
    reply.trained.next.key = b"key"
    kept = without_update(reply)
    reply.trained.ClearField("update")
    assert kept == reply
    bare = without_update(trained("a")).trained
    assert not bare.HasField("receipt")
    assert not bare.HasField("next")


class Late(MaskedPost):
    """Answers come in the order of the sites' names turned round."""

    def ask(self, requests: Any, *, take: Any, **how: Any) -> Exchange:
        found = super().ask(requests, take=lambda _, reply: reply, **how)
        replies, refused = {}, dict(found.refused)
        for site in sorted(found.replies, reverse=True):
            try:
                replies[site] = take(site, found.replies[site])
            except ProtocolError as error:
                refused[site] = error
        return Exchange(replies=dict(sorted(replies.items())), refused=refused, silent=found.silent)


def test_masked_words_may_come_in_any_order(tmp_path: Path) -> None:
    for post_kind in (MaskedPost, Late):
        folder = masked_folder(tmp_path / post_kind.__name__)
        post = post_kind(folder, {("west", "train", 2): changed(update=b"1234")})
        go(folder, post)
        check_means(folder, post, set(SITES), without("west"), without("west"))


@pytest.mark.parametrize("kind", ["none", "masks"])
def test_an_answer_is_added_last_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of a good update is in the sum where its receipt is wrong, or its dealing lacks a share."""
    masked = kind == "masks"
    folder = masked_folder(tmp_path / "run") if masked else make_folder(tmp_path / "run", run_job())
    post: Any = MaskedPost if masked else ScriptedPost
    added: list[str] = []
    count = Contributors.add
    monkeypatch.setattr(Contributors, "add", lambda self, site: (added.append(site), count(self, site))[1])

    def spoil(reply: Reply) -> Reply:
        if masked:
            del reply.trained.next.sealed[-1]
        else:
            reply.trained.receipt.content = b"{}"
        return reply

    with caplog.at_level(logging.WARNING):
        go(folder, post(folder, {("south", "train", 1): spoil}))
    assert "south takes no further part" in caplog.text
    assert added
    assert "south" not in added
    assert folder.records()[0].absent == ["south"]


@pytest.mark.parametrize("kind", ["train", "join"])
def test_who_sends_more_than_the_job_needs_is_left_out(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(tmp_path / "run", run_job())
    fields = {"train": {"update": bytes(1 << 17)}, "join": {"session_key": bytes(1 << 17)}}
    with caplog.at_level(logging.WARNING):
        go(folder, ScriptedPost(folder, {("south", kind, 1): changed(**fields[kind])}))
    assert "south sent 131" in caplog.text
    assert f"bytes in answer to {kind}: expected 66" in caplog.text
    assert [record.absent for record in folder.records()] == [["south"] if kind == "train" else []] * 3


def test_masked_sums_keep_no_update(tmp_path: Path) -> None:
    """Between two answers there is the sum, of one update's size, and nothing of each site."""
    folder = masked_folder(tmp_path / "run")
    held: list[tuple[int, int]] = []
    take = MaskedSums.take

    def watched(self: MaskedSums, site: str, reply: Reply) -> Reply:
        kept = take(self, site, reply)
        if reply.HasField("trained"):
            held.append((len(kept.trained.update), self._total.nbytes))
        return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskedSums, "take", watched)
        go(folder, MaskedPost(folder))
    assert held == [(0, 4 * LAYOUT.update_size)] * (3 * len(SITES))


def test_requests_are_made_when_they_are_looked_up() -> None:
    made: list[str] = []

    def make(site: str) -> pb.Request:
        made.append(site)
        return pb.Request(head=site.encode())

    requests = Requests({"a": 1, "b": 2}, make)
    assert (len(requests), sorted(requests), made) == (2, ["a", "b"], [])
    assert requests["b"].head == b"b"
    assert made == ["b"]
    with pytest.raises(KeyError):
        requests["c"]
