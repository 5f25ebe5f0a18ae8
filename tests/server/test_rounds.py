"""The round loop: who takes part in each round, what is kept of it, and how a run ends."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import BudgetError, ConfideError, ProtocolError, RunError, SiteError
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from tests.server.runs import LAYOUT
from tests.server.scripted import SPENT, Act, Acts, ScriptedPost, go, identity, make_folder, run_job

REFUSED = SiteError("south refused: not with us", exit_code=2)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path / "run")


def absences(folder: RunFolder) -> list[list[str]]:
    return [record.absent for record in folder.records()]


def ends(
    folder: RunFolder, acts: Acts, *, before: ScriptedPost | None = None
) -> tuple[ConfideError, ScriptedPost]:
    post = ScriptedPost(folder, acts, before=before)
    with pytest.raises(ConfideError) as caught:
        go(folder, post)
    return caught.value, post


def test_no_site_at_all(folder: RunFolder) -> None:
    with pytest.raises(RunError, match="no site"):
        go(folder, ScriptedPost(folder, sites=()))


def test_too_few_join_in_time(folder: RunFolder) -> None:
    error, post = ends(folder, {("east", "join", 1): None, ("south", "join", 1): None})
    assert str(error).startswith("joining: expected answers from at least 2 sites in time, got 1")
    assert "east: it is not connected; south: it is not connected" in str(error)
    assert {kind for _, kind, _, _ in post.asked} == {"join"}
    assert folder.public_keys == {}


def test_a_refusal_that_leaves_too_few(folder: RunFolder) -> None:
    error, _ = ends(folder, {("south", "join", 1): REFUSED, ("north", "join", 1): None})
    assert error is REFUSED
    assert folder.records() == []


def test_a_refusal_that_leaves_enough(folder: RunFolder) -> None:
    post = ScriptedPost(folder, {("south", "join", 1): REFUSED})
    go(folder, post)
    assert [kind for site, kind, _, _ in post.asked if site == "south"] == ["join"]
    assert list(folder.public_keys) == ["east", "north"]
    assert absences(folder) == [[], [], []]
    assert len(audit_run(folder).sites) == 2


def test_without_min_sites_all_must_join(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run", run_job(min_sites=None))
    error, _ = ends(folder, {("south", "join", 1): None})
    assert "at least 3 sites in time, got 2 (south: it is not connected)" in str(error)


def test_a_resumed_run_asks_again_who_refused(folder: RunFolder) -> None:
    ends(folder, {("south", "join", 1): REFUSED, ("north", "join", 1): None})
    go(folder, ScriptedPost(folder))
    assert absences(folder) == [[], [], []]


def test_a_site_drops_out_and_comes_back(folder: RunFolder) -> None:
    post = ScriptedPost(folder, {("south", "train", 2): None})
    heard = go(folder, post)
    assert heard == folder.records()
    assert absences(folder) == [[], ["south"], []]
    first, second, third = (record.epsilon["south"] for record in heard)
    assert first == second < third
    assert heard[1].epsilon["north"] > second
    assert sorted(folder.receipts(2)) == ["east", "north"]
    # Who is away has joined already, and is asked to train again.
    assert [(kind, n) for site, kind, n, _ in post.asked if site == "south"] == [
        ("join", 1),
        ("train", 1),
        ("train", 2),
        ("train", 3),
    ]
    assert [site.rounds for site in audit_run(folder).sites] == [3, 3, 2]


def test_the_mean_is_over_those_who_answered(folder: RunFolder) -> None:
    """The sites' updates are 0, 1 and 2 everywhere."""
    go(folder, ScriptedPost(folder, {("east", "train", 2): None}))
    moved = [float(folder.load_adapter(number, LAYOUT)[0]) for number in (0, 1, 2, 3)]
    assert np.diff(moved) == pytest.approx([1.0, 1.5, 1.0])


def test_a_newcomer_joins_late(folder: RunFolder) -> None:
    post = ScriptedPost(folder, {("south", "join", 1): None})
    # Round 1 asks to join twice: all at first, then those who have not, aside.
    post.acts["south", "join", 2] = lambda reply: reply
    go(folder, post)
    assert [(kind, n, side_requests) for site, kind, n, side_requests in post.asked if site == "south"] == [
        ("join", 1, False),
        ("join", 1, True),
        ("join", 2, True),
        ("train", 3, False),
    ]
    records = folder.records()
    assert ["south" in record.epsilon for record in records] == [False, False, True]
    assert absences(folder) == [[], ["south"], []]
    assert [site.rounds for site in audit_run(folder).sites] == [3, 3, 1]


def test_a_newcomers_refusal_ends_nothing(folder: RunFolder) -> None:
    post = ScriptedPost(folder, {("south", "join", 1): None, ("south", "join", 2): SPENT})
    go(folder, post)
    assert len(folder.records()) == 3
    assert ("south", "join", 3, True) not in post.asked


@pytest.mark.parametrize("refusal", [SPENT, REFUSED])
def test_a_newcomers_refusal_is_not_why_a_round_fails(folder: RunFolder, refusal: ConfideError) -> None:
    """The run goes on as soon as north is back."""
    acts: Acts = {
        ("south", "join", 1): None,
        ("south", "join", 2): refusal,
        ("north", "train", 2): None,
    }
    error, _ = ends(folder, acts)
    assert isinstance(error, RunError)
    assert "round 2: expected answers from at least 2 sites in time, got 1 (north: " in str(error)
    assert len(folder.records()) == 1


def test_more_sites_than_the_manifest_is_for(folder: RunFolder) -> None:
    """The federation has grown since: whoever joined keeps the place."""
    first = ScriptedPost(folder, {("south", "train", 2): None, ("north", "train", 2): None})
    with pytest.raises(RunError):
        go(folder, first)
    grown = ScriptedPost(folder, sites=("arctic", "east", "north", "south"), before=first)
    go(folder, grown)
    assert list(folder.public_keys) == ["east", "north", "south"]
    assert [kind for site, kind, _, _ in grown.asked if site == "arctic"] == ["join"]
    assert audit_run(folder).rounds == 3


def test_a_newcomer_takes_the_place_that_is_free(folder: RunFolder) -> None:
    sites = ("arctic", "east", "north", "south")
    post = ScriptedPost(folder, {("arctic", "join", 1): None}, sites)
    go(folder, post)
    assert list(folder.public_keys) == ["east", "north", "south"]
    assert ("arctic", "train", 3, False) not in post.asked
    audit_run(folder)


def test_a_spent_budget_ends_the_run(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    acts = {("south", "train", 2): SPENT, ("north", "train", 3): SPENT}
    with caplog.at_level(logging.WARNING):
        go(folder, ScriptedPost(folder, acts))
    assert absences(folder) == [[], ["south"]]
    assert "the run ends after round 2: its budget is spent" in caplog.text
    assert folder.metrics is None


def test_a_spent_budget_ends_no_run_that_a_silent_site_can_save(folder: RunFolder) -> None:
    error, _ = ends(folder, {("south", "train", 2): SPENT, ("north", "train", 2): None})
    assert isinstance(error, RunError)
    assert "(north: it is not connected; its budget is spent)" in str(error)


def test_a_spent_budget_at_joining_is_raised(folder: RunFolder) -> None:
    error, _ = ends(folder, {("south", "join", 1): SPENT, ("north", "join", 1): SPENT})
    assert isinstance(error, BudgetError)


def test_a_refusal_in_a_round_is_the_sites_last_word(folder: RunFolder) -> None:
    post = ScriptedPost(folder, {("south", "train", 2): REFUSED})
    go(folder, post)
    assert ("south", "train", 3, False) not in post.asked
    assert not [asked for asked in post.asked if asked[0] == "south" and asked[3]]
    assert absences(folder) == [[], ["south"], ["south"]]
    audit_run(folder)


def test_too_few_in_a_round(folder: RunFolder) -> None:
    error, _ = ends(folder, {("south", "train", 2): None, ("north", "train", 2): None})
    assert isinstance(error, RunError)
    assert "round 2: expected answers from at least 2 sites in time, got 1" in str(error)
    assert len(folder.records()) == 1
    assert not folder.receipts_path(2).exists()


def test_a_resumed_run_carries_epsilon_over(folder: RunFolder) -> None:
    first = ScriptedPost(folder, {("south", "train", 2): None, ("north", "train", 2): None})
    with pytest.raises(RunError):
        go(folder, first)
    away: Acts = {("south", "join", number): None for number in (2, 3)}
    go(folder, ScriptedPost(folder, away, before=first))
    assert absences(folder) == [[], ["south"], ["south"]]
    records = folder.records()
    assert records[0].epsilon["south"] == records[2].epsilon["south"]
    taken = {site.site: site.taken for site in audit_run(folder).sites}
    assert taken == {"east": 3, "north": 3, "south": 1}
    finished = ScriptedPost(folder)
    assert go(folder, finished) == []
    assert {kind for _, kind, _, _ in finished.asked} == {"join"}


def changed(**fields: object) -> Act:
    def act(reply: Reply) -> Reply:
        inner = getattr(reply, str(reply.WhichOneof("kind")))
        for name, value in fields.items():
            setattr(inner, name, value)
        return reply

    return act


@pytest.mark.parametrize(
    ("kind", "act", "words"),
    [
        ("join", changed(manifest_digest=b"x" * 32), "north joined another manifest"),
        ("train", changed(round=1), "north answered round 1, not round 2"),
        ("train", changed(update=b"1234"), "expected a vector of 16 bytes, got 4"),
        ("train", changed(update=b"\xff" * 16), "NaN or infinity"),
    ],
)
def test_an_answer_that_is_wrong(
    folder: RunFolder, tmp_path: Path, kind: str, act: Act, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its site is left out; where too few are left, the run stops and says why."""
    number = 1 if kind == "join" else 2
    error, _ = ends(folder, {(site, kind, number): act for site in ("north", "south")})
    assert isinstance(error, ProtocolError)
    assert words in str(error)
    assert len(folder.records()) == number - 1
    other = make_folder(tmp_path / "other")
    caplog.clear()
    post = ScriptedPost(other, {("south", kind, number): act})
    go(other, post)
    assert "south takes no further part" in caplog.text
    assert absences(other) == [[], [], []] if kind == "join" else [[], ["south"], ["south"]]
    assert ("south" in other.public_keys) == (kind == "train")
    assert [number for site, kind, number, _ in post.asked if (site, kind) == ("south", "train")] == (
        [] if kind == "join" else [1, 2]
    )
    audit_run(other)


def test_another_key_than_the_one_it_joined_with(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    first = ScriptedPost(folder, {("south", "train", 3): SPENT, ("north", "train", 3): SPENT})
    go(folder, first)
    kept = folder.public_keys
    acts: Acts = {("south", "join", 3): changed(public_key=identity("someone").public)}
    go(folder, ScriptedPost(folder, acts, before=first))
    assert "south answers under another key" in caplog.text
    assert folder.public_keys == kept
    assert absences(folder)[-1] == ["south"]


def test_a_newcomer_of_another_manifest(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    post = ScriptedPost(folder, {("south", "join", 1): None})
    post.acts["south", "join", 2] = changed(manifest_digest=b"x" * 32)
    go(folder, post)
    assert "south joined another manifest" in caplog.text
    assert absences(folder) == [[], [], []]
    assert "south" not in folder.public_keys


def with_receipt(other: pb.Receipt) -> Act:
    def act(reply: Reply) -> Reply:
        inner = getattr(reply, str(reply.WhichOneof("kind")))
        inner.receipt.CopyFrom(other)
        return reply

    return act


def test_receipts_of_something_else(folder: RunFolder) -> None:
    post = ScriptedPost(folder)
    train = pb.Request(train=pb.Train(round=1))
    answers = [post.answer("south", train, 1), post.answer("north", train, 2)]
    ours = [answer.trained.receipt for answer in answers]
    damaged = pb.Receipt(content=ours[0].content, signature=bytes(64))
    for receipt, words in [
        (ours[0], "south sent a receipt for something else than the training of round 2"),
        (ours[1], "the signature does not fit: receipt"),
        (damaged, "the signature does not fit: receipt"),
    ]:
        acts = {("south", "train", 2): with_receipt(receipt), ("east", "train", 2): None}
        error, post = ends(folder, acts, before=post)
        assert words in str(error)
        assert len(folder.records()) == 1
        assert not folder.receipts_path(2).exists()


def test_a_loss_that_is_none(folder: RunFolder) -> None:
    with pytest.raises(RunError, match="round 1: the held-out loss is NaN"):
        go(folder, ScriptedPost(folder), loss=float("nan"))
    assert folder.records() == []


def measured(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path / "run", run_job(metrics=0.5))


def test_metrics_of_those_who_answer(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    go(folder, ScriptedPost(folder, {("south", "evaluate", 3): None}))
    assert folder.metrics is not None
    assert list(folder.metrics.sites) == ["east", "north"]
    assert audit_run(folder).metrics == 0.5
    again = ScriptedPost(folder)
    go(folder, again)
    assert {kind for _, kind, _, _ in again.asked} == {"join"}


def test_who_never_trained_is_not_asked_for_metrics(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    post = ScriptedPost(folder, {("south", "join", number): None for number in (1, 2)})
    go(folder, post)
    assert ("south", "join", 3, True) in post.asked
    assert ("south", "evaluate", 3, False) not in post.asked
    assert folder.metrics is not None
    assert list(folder.metrics.sites) == ["east", "north"]


def test_too_few_metrics_are_asked_for_again(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    acts: Acts = {(site, "evaluate", 3): None for site in ("north", "south")}
    error, _ = ends(folder, acts)
    assert "metrics: expected answers from at least 2 sites in time, got 1" in str(error)
    again = ScriptedPost(folder, {("east", "evaluate", 3): SPENT})
    # The round that joining is asked in comes after the last.
    go(folder, again)
    assert folder.metrics is not None
    assert list(folder.metrics.sites) == ["north", "south"]
    assert {kind for _, kind, _, _ in again.asked} == {"join", "evaluate"}


def test_metrics_that_nobody_can_pay(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    go(folder, ScriptedPost(folder, {(site, "evaluate", 3): SPENT for site in ("north", "south")}))
    assert folder.metrics is None
    assert len(folder.records()) == 3


def test_metrics_that_cannot_be(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    wrong = changed(examples=0)
    error, _ = ends(folder, {("south", "evaluate", 3): wrong, ("north", "evaluate", 3): wrong})
    assert isinstance(error, ProtocolError)
    assert "north sent metrics that cannot be" in str(error)
    assert folder.metrics is None


def test_a_killed_round_is_run_again(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the receipts and the record; fewer sites answer the second time."""
    post = ScriptedPost(folder)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            go(folder, post)
    assert sorted(folder.receipts(1)) == ["east", "north", "south"]
    go(folder, ScriptedPost(folder, {("south", "train", 1): None}, before=post))
    assert sorted(folder.receipts(1)) == ["east", "north"]
    assert absences(folder) == [["south"], [], []]
