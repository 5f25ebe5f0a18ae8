"""The round loop holds each receipt against the manifest and the site's last one, and tells it of that."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import ProtocolError
from privacy.ledger.receipt import Receipt, sign_receipt
from privacy.mechanisms.mechanism import Mechanism
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply, Request, Train
from runs.receipts import Receipts, signed
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from server.post.post import Exchange
from tests.server.masked import SITES as MASKED_SITES
from tests.server.masked import MaskedPost, masked_folder
from tests.server.scripted import (
    SITES,
    SPENT,
    Act,
    Acts,
    ScriptedPost,
    entry_hash,
    go,
    identity,
    make_folder,
    run_job,
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path / "run")


def measured(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path / "run", run_job(metrics=0.5))


def read(site: str, sent: pb.Receipt) -> Receipt:
    return signed(sent).read(identity(site).public)


def signing(**changes: Any) -> Act:
    """The site itself signs something else. A plan is changed by its fields."""

    def act(reply: Reply) -> Reply:
        inner = getattr(reply, str(reply.WhichOneof("kind")))
        receipt = read(reply.site, inner.receipt)
        values = changes | {
            key: replace(receipt.plan, **value) for key, value in changes.items() if key == "plan"
        }
        new = sign_receipt(identity(reply.site), replace(receipt, **values))
        inner.receipt.content, inner.receipt.signature = new.content, new.signature
        return reply

    return act


class Listening(ScriptedPost):
    """Keeps the head in each request, by site, kind and round."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heads: list[tuple[str, str, int, str]] = []

    def ask(self, requests: Mapping[str, Request], **options: Any) -> Exchange:
        for site, request in {**requests, **(options.get("side_requests") or {})}.items():
            kind = str(request.WhichOneof("kind"))
            self.heads.append((site, kind, options["round_number"], request.head.hex()))
        return super().ask(requests, **options)

    def of(self, site: str, kind: str) -> list[str]:
        return [head for name, asked, _, head in self.heads if (name, asked) == (site, kind)]


SET_BACK = "; an older copy of the site's home was put back, or it answers from two homes"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"taken": 1}, f"after 1 of 3 steps, and 1 more, it counts 1{SET_BACK}"),
        ({"taken": 0}, f"after 1 of 3 steps, and 1 more, it counts 0{SET_BACK}"),
        (
            {"head": entry_hash("south", 1)},
            f"its ledger stands where it stood before: nothing was charged{SET_BACK}",
        ),
        ({"plan": {"sampling_rate": 0.05}}, "its plan is wrong"),
        ({"plan": {"mechanism": Mechanism(name="gaussian", multiplier=9.0)}}, "its plan is wrong"),
        ({"plan": {"mechanism": Mechanism(name="laplace", multiplier=9.0)}}, "its mechanism is wrong"),
        ({"plan": {"clipping_norm": 2.0}}, "its clipping norm is wrong: expected 1.0, got 2.0"),
        ({"plan": {"delta": 0.1}}, "its delta is wrong: expected 1e-05, got 0.1"),
        ({"plan": {"steps": 4}}, "its number of planned steps is wrong: expected 3, got 4"),
        ({"budget": 9.0}, "its budget is wrong: expected 3.0, got 9.0"),
        ({"steps": 2}, "its number of steps is wrong: expected 1, got 2"),
        ({"head": "0" * 63}, "its head is no SHA-256"),
        ({"head": "g" * 64}, "its head is no SHA-256"),
        ({"head": ""}, "its head is no SHA-256"),
        ({"epsilon": None}, "there was noise, and it claims epsilon=None"),
        ({"epsilon": -1.0}, "there was noise, and it claims epsilon=-1.0"),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_a_receipt_that_does_not_go_on(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], words: str, resumed: bool
) -> None:
    """Its site is left out, and the round counts without it; so it is where the run was resumed."""
    lies: Acts = {("south", "train", 2): signing(**changes)}
    if resumed:
        first = ScriptedPost(folder, {(site, "train", 2): SPENT for site in ("east", "north", "south")})
        go(folder, first)
        assert len(folder.records()) == 1
        go(folder, ScriptedPost(folder, lies, before=first))
    else:
        go(folder, ScriptedPost(folder, lies))
    assert f"south takes no further part: south sent a wrong receipt: {words}" in caplog.text
    assert [record.absent for record in folder.records()] == [[], ["south"], ["south"]]
    assert "south" not in folder.receipts(2)
    audit_run(folder)


@pytest.mark.parametrize(
    "changes",
    [{"taken": 0}, {"budget": 9.0}, {"plan": {"delta": 0.1}}, {"head": "x"}],
)
def test_a_first_receipt_must_be_of_the_manifest(folder: RunFolder, changes: dict[str, Any]) -> None:
    lies: Acts = {(site, "train", 1): signing(**changes) for site in ("north", "south")}
    with pytest.raises(ProtocolError, match="north sent a wrong receipt"):
        go(folder, ScriptedPost(folder, lies))
    assert folder.records() == []


def test_too_few_go_on(folder: RunFolder) -> None:
    lies: Acts = {(site, "train", 2): signing(taken=1) for site in ("north", "south")}
    with pytest.raises(ProtocolError, match="after 1 of 3 steps, and 1 more, it counts 1"):
        go(folder, ScriptedPost(folder, lies))
    assert len(folder.records()) == 1
    assert not folder.receipts_path(2).exists()


def test_steps_that_were_lost_on_the_way_count(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    """A site that was charged and not heard is further than the coordinator knows."""
    post = ScriptedPost(folder, {("south", "train", 2): None})
    post.taken["south"] = 1
    with caplog.at_level(logging.WARNING):
        go(folder, post)
    assert [record.absent for record in folder.records()] == [[], ["south"], []]
    assert read("south", told(folder, 3, "south")).taken == 3
    assert "takes no further part" not in caplog.text


def told(folder: RunFolder, number: int, site: str) -> pb.Receipt:
    kept = folder.receipts(number)[site]
    return pb.Receipt(content=kept.content, signature=kept.signature)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": entry_hash("south", 3)}, "its ledger stands where it stood before"),
        ({"taken": 2}, r"its number of steps is wrong: expected \(1, 1\), got \(1, 2\)"),
        ({"budget": 0.6}, "its budget is wrong: expected 0.5, got 0.6"),
        ({"epsilon": 0.1}, "its epsilon is wrong"),
        ({"plan": {"delta": 0.1}}, "its plan is wrong"),
        ({"head": "?"}, "its head is no SHA-256"),
    ],
)
def test_a_receipt_for_metrics_that_does_not_go_on(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = measured(tmp_path)
    lies: Acts = {(site, "evaluate", 3): signing(**changes) for site in ("north", "south")}
    if changes.get("head") == entry_hash("south", 3):
        lies = {(site, "evaluate", 3): signing(head=entry_hash(site, 3)) for site in ("north", "south")}
    with pytest.raises(ProtocolError, match=f"north sent a wrong receipt: {words}"):
        go(folder, ScriptedPost(folder, lies))
    assert folder.metrics is None
    assert not folder.receipts_path("metrics").exists()


def test_a_request_names_the_entry_of_the_last_receipt(tmp_path: Path) -> None:
    """Of its own site, and of the last round that the site was in; joining names none."""
    folder = measured(tmp_path)
    post = Listening(folder, {("south", "train", 3): None, ("east", "join", 1): None})
    go(folder, post)
    heads = {site: [entry_hash(site, taken) for taken in (0, 1, 2, 3)] for site in SITES}
    assert post.of("north", "train") == ["", heads["north"][1], heads["north"][2]]
    assert post.of("north", "evaluate") == [heads["north"][3]]
    assert post.of("south", "train") == ["", heads["south"][1], heads["south"][2]]
    assert post.of("south", "evaluate") == [heads["south"][2]]
    assert post.of("east", "train") == [""]  # it came for the last round
    assert set(post.of("north", "join") + post.of("east", "join")) == {""}


def test_a_resumed_run_names_what_its_folder_has(folder: RunFolder) -> None:
    """Killed between the receipts and the record: the round is asked for again in the same words."""
    post = Listening(folder, {("south", "train", 2): None})
    with pytest.MonkeyPatch.context() as patch:
        finish = RunFolder.finish_round

        def killed(self: RunFolder, record: Any, *rest: Any) -> None:
            if record.round == 3:
                raise KeyboardInterrupt
            finish(self, record, *rest)

        patch.setattr(RunFolder, "finish_round", killed)
        with pytest.raises(KeyboardInterrupt):
            go(folder, post)
    again = Listening(folder, before=post)
    go(folder, again)
    asked = {site: entry_hash(site, 1 if site == "south" else 2) for site in SITES}
    for site in SITES:
        assert post.of(site, "train")[-1] == asked[site]
        assert again.of(site, "train") == [asked[site]]
        assert again.of(site, "join") == [""]  # as they were asked first, so that they need not load anew
    # They answered what they had answered: nothing was charged again.
    assert again.taken == {"east": 3, "north": 3, "south": 2}
    audit_run(folder)


def test_each_step_of_a_sum_names_the_rounds_own_entry(tmp_path: Path) -> None:
    """What uncovers a round comes after its receipt."""
    folder = masked_folder(tmp_path / "run")
    post = MaskedPost(folder)
    go(folder, post)
    heads: dict[str, dict[str, list[str]]] = {site: {} for site in MASKED_SITES}
    for site, request in post.sent:
        heads[site].setdefault(str(request.WhichOneof("kind")), []).append(request.head.hex())
    rounds = folder.manifest.job.training.rounds
    for site in MASKED_SITES:
        entries = [read(site, told(folder, number, site)).head for number in range(1, rounds + 1)]
        assert heads[site]["join"] == heads[site]["deal"] == [""]
        assert heads[site]["train"] == ["", *entries[:-1]]
        assert set(heads[site]["confirm"]) == set(entries)
        assert set(heads[site].get("unmask", entries)) <= set(entries)


def test_what_masks_are_keyed_by_does_not_name_it(folder: RunFolder) -> None:
    """It differs from site to site, and masks would not cancel out."""
    go(folder, ScriptedPost(folder))
    receipts = Receipts(folder, folder.manifest, folder.records())
    shared = Request(train=Train(round=4, adapter=b"adapter"))
    reminded = receipts.remind(dict.fromkeys(SITES, shared))
    assert [reminded[site].train for site in SITES] == [shared.train] * 3
    assert len({reminded[site].head for site in SITES}) == 3
    assert shared.head == b""  # the sites share it


def test_a_folder_whose_receipts_were_changed_is_not_gone_on_with(folder: RunFolder) -> None:
    first = ScriptedPost(folder, {(site, "train", 2): SPENT for site in SITES})
    go(folder, first)
    kept = folder.receipts(1)
    folder.save_receipts(1, kept | {"south": kept["north"]})
    with pytest.raises(ProtocolError, match="the signature does not fit"):
        go(folder, ScriptedPost(folder, before=first))
