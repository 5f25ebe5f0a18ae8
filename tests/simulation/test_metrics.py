"""Runs that ask for metrics: what they leave, what an auditor finds, and what a kill costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.site import Site
from confide.terminal import closing_lines
from privacy.errors import AuditError, JobError, ProtocolError, SiteError
from privacy.identity import Identity
from privacy.ledger.receipt import SignedReceipt, sign_receipt
from privacy.mechanisms.counting import ONE
from protocol.messages import confide_pb2 as pb
from runs.run import Run
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.simulate import resume, simulate
from tests import tiny

EPSILON = 2.0
# Few rows: a site counts its hits one example after the other.
ASKED: dict[str, dict[str, Any]] = {
    "metrics": {"epsilon": EPSILON},
    "training": {"rounds": 2},
    "data": {"limit": 96},
}


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(tiny.job(tiny_folder, **ASKED), runs=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def folder(finished: Run, tmp_path: Path) -> RunFolder:
    """A copy of the finished run, to be tampered with."""
    shutil.copytree(finished.folder, tmp_path / finished.folder.name, symlinks=True)
    return RunFolder.open(tmp_path / finished.folder.name)


def ledgers(folder: RunFolder) -> list[Path]:
    return sorted(folder.path.glob("sites/*/ledger.db"))


def identity(folder: RunFolder, site: str) -> Identity:
    return Identity.load(folder.path / "sites" / site / "identity.key")


def test_a_run_leaves_its_metrics(finished: Run) -> None:
    folder = RunFolder.open(finished.folder)
    table = json.loads((folder.path / "metrics.json").read_text())
    assert table["epsilon"] == EPSILON
    assert {name: kept["examples"] for name, kept in table["sites"].items()} == folder.facts[
        "examples_by_site"
    ]
    assert all(0 <= kept["mean"] <= 1 for kept in table["sites"].values())
    right = sum(kept["right"] for kept in table["sites"].values())
    assert table["mean"] == min(1, max(0, right / (table["examples"] * ONE)))
    assert all(type(kept["right"]) is int for kept in table["sites"].values())
    # All bits are noise's: whole examples would be multiples of 2^30, and are but once in 2^30.
    assert all(kept["right"] % ONE for kept in table["sites"].values())
    assert finished.metrics == folder.metrics
    assert folder.receipts("metrics").keys() == folder.public_keys.keys()
    assert 'id="metrics"' in finished.report.read_text()
    assert any("on the sites' own examples" in line for line in closing_lines(finished))


def test_the_metrics_are_near_the_truth(tiny_folder: Path, tmp_path: Path) -> None:
    """With next to no noise: 192 examples at 3 sites, and a deviation of √6/100/192 < 2e-4."""
    job = tiny.job(tiny_folder, metrics={"epsilon": 100.0}, training={"rounds": 1}, seeds={"noise": 5})
    run = simulate(job, runs=tmp_path)
    assert run.metrics is not None
    right = run.metrics.mean * run.metrics.examples
    # Whole examples are right or wrong; e^-30 is the chance of noise beyond 0.3 at a site.
    assert abs(right - round(right)) < 0.9
    rights = [site.right / ONE for site in run.metrics.sites.values()]
    assert all(abs(right - round(right)) < 0.3 for right in rights)
    assert 0.2 < run.metrics.mean < 0.9


def test_without_metrics_in_the_job_there_are_none(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(tiny.job(tiny_folder, training={"rounds": 1}), runs=tmp_path)
    assert run.metrics is None
    assert not (run.folder / "metrics.json").exists()
    assert not (run.folder / "receipts" / "metrics.json").exists()
    audit = audit_run(RunFolder.open(run.folder))
    assert audit.metrics is None


def test_metrics_without_privacy_are_no_job(tiny_folder: Path) -> None:
    with pytest.raises(JobError, match=r"metrics\.epsilon: expected 0 with privacy\.mechanism"):
        tiny.job(tiny_folder, metrics={"epsilon": 1.0}, privacy={"mechanism": "none"})


def test_a_comparison_asks_for_none(tiny_folder: Path, tmp_path: Path) -> None:
    """Without noise in training it could not, and the other is compared by held-out examples."""
    run = simulate(tiny.job(tiny_folder, **ASKED), runs=tmp_path, compare=True)
    assert run.metrics is not None
    assert [path.parent.name for path in run.folder.rglob("metrics.json")].count("receipts") == 1
    assert not list(run.folder.glob("compare/**/metrics.json"))


def test_the_metrics_are_asked_for_once(finished: Run) -> None:
    before = (finished.folder / "metrics.json").read_bytes()
    assert resume(finished.folder).metrics == finished.metrics
    assert (finished.folder / "metrics.json").read_bytes() == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, job: Any, runs: Path, where: str) -> Path:
    """A run that was killed in the place that is named."""

    def kill(*_arguments: object, **_options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(where, kill)
        with pytest.raises(Killed):
            simulate(job, runs=runs, name="run")
    return runs / "run"


def test_a_run_killed_before_it_asks_gets_its_metrics(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job(tiny_folder, **ASKED)
    path = killed_at(monkeypatch, job, tmp_path, "server.rounds._Run._ask_metrics")
    assert len(RunFolder.open(path).records()) == 2
    assert resume(path).metrics is not None
    audit_run(RunFolder.open(path), ledgers(RunFolder.open(path)))


def test_answers_that_were_lost_stay_lost(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh noise a second time would be a second release. The run ends all the same."""
    where = "runs.run_folder.RunFolder.save_metrics"
    path = killed_at(monkeypatch, tiny.job(tiny_folder, **ASKED), tmp_path, where)
    run = resume(path)
    assert (run.metrics, len(run.rounds)) == (None, 2)
    assert "the run ends without metrics: site-1: the run planned for 1 steps" in (
        (path / "run.log").read_text()
    )
    assert "it is not known: run.log says why" in run.report.read_text()
    audit = audit_run(RunFolder.open(path), ledgers(RunFolder.open(path)))
    assert audit.metrics is None


def test_keyed_answers_that_were_lost_come_again(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job(tiny_folder, **ASKED, seeds={"noise": 5})
    undisturbed = simulate(job, runs=tmp_path / "other", name="run")
    where = "runs.run_folder.RunFolder.save_metrics"
    path = killed_at(monkeypatch, job, tmp_path, where)
    assert resume(path).metrics == undisturbed.metrics
    audit_run(RunFolder.open(path), ledgers(RunFolder.open(path)))


def test_a_site_that_allows_no_metrics_stops_the_run_before_its_first_round(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulation import simulated_federation as world

    whole = world.simulated_policy

    def without(*arguments: Any, **named: Any) -> Any:
        policy = whole(*arguments, **named)
        rules = policy.rules.model_copy(update={"metrics_epsilon": 0.0})
        return policy.model_copy(update={"rules": rules})

    monkeypatch.setattr(world, "simulated_policy", without)
    with pytest.raises(SiteError, match=r"rules\.metrics_epsilon"):
        simulate(tiny.job(tiny_folder, **ASKED), runs=tmp_path, name="run")


TRAINED: list[pb.Receipt] = []
Changes = Callable[[pb.Evaluated], None]


def of_too_many(evaluated: pb.Evaluated) -> None:
    evaluated.examples = 2**33


def of_nobody(evaluated: pb.Evaluated) -> None:
    evaluated.examples = 0


def without_receipt(evaluated: pb.Evaluated) -> None:
    evaluated.receipt.content = b"{}"


def with_receipt_of_training(evaluated: pb.Evaluated) -> None:
    evaluated.receipt.CopyFrom(TRAINED[-1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (of_too_many, "site-2 sent metrics that cannot be"),
        (of_nobody, "site-2 sent metrics that cannot be"),
        (without_receipt, "signature"),
        (with_receipt_of_training, "site-2 sent a receipt for something else than the metrics of round 1"),
    ],
)
@pytest.mark.exhaustive(but=1)
def test_an_answer_that_cannot_be_is_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Changes, reason: str
) -> None:
    reply_to, complete = Site.reply, Site.complete

    def completed(site: Site, *arguments: Any) -> pb.Trained:
        trained = complete(site, *arguments)
        if site.name == "site-2":
            TRAINED.append(trained.receipt)
        return trained

    def changed(site: Site, request: pb.Request, **named: Any) -> pb.Reply:
        reply = reply_to(site, request, **named)
        if site.name == "site-2" and reply.HasField("evaluated"):
            change(reply.evaluated)
        return reply

    monkeypatch.setattr(Site, "reply", changed)
    monkeypatch.setattr(Site, "complete", completed)
    job = tiny.job(tiny_folder, **ASKED | {"training": {"rounds": 1}})
    with pytest.raises(ProtocolError, match=reason):
        simulate(job, runs=tmp_path, name="run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_an_auditor_finds_the_metrics_in_the_ledgers(folder: RunFolder) -> None:
    assert audit_run(folder).metrics == EPSILON
    audit = audit_run(folder, ledgers(folder))
    assert audit.metrics == EPSILON
    assert [(site.charged, site.rounds) for site in audit.sites] == [(2, 2)] * 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"purpose": "training"}, "purpose"),
        ({"round": 1}, "round"),
        ({"epsilon": 0.1}, "epsilon"),
        ({"budget": 9.0}, "budget"),
        ({"taken": 2}, "number of steps"),
        ({"manifest": "0" * 64}, "manifest"),
        ({"site": "site-1"}, "site"),
    ],
)
def test_a_receipt_that_says_something_else_is_named(
    folder: RunFolder, changes: dict[str, Any], what: str
) -> None:
    """Even where the site itself signed it."""
    receipts = folder.receipts("metrics")
    receipt = receipts["site-2"].read(folder.public_keys["site-2"])
    lie = sign_receipt(identity(folder, "site-2"), replace(receipt, **changes))
    folder.save_receipts("metrics", receipts | {"site-2": lie})
    with pytest.raises(AuditError, match=rf"metrics, site-2: its {what} is wrong"):
        audit_run(folder)


def test_a_tampered_receipt_is_named(folder: RunFolder) -> None:
    receipts = folder.receipts("metrics")
    kept = receipts["site-3"]
    content = kept.content.replace(b'"epsilon":2.0', b'"epsilon":1.0')
    assert content != kept.content
    lie = SignedReceipt(content=content, signature=kept.signature)
    folder.save_receipts("metrics", receipts | {"site-3": lie})
    with pytest.raises(AuditError, match=r"metrics, site-3: .*signature"):
        audit_run(folder)


def test_a_training_receipt_is_no_receipt_for_metrics(folder: RunFolder) -> None:
    folder.save_receipts("metrics", folder.receipts(2))
    with pytest.raises(AuditError, match="metrics, site-1: its purpose is wrong"):
        audit_run(folder)


def test_a_metrics_receipt_is_no_receipt_for_a_round(folder: RunFolder) -> None:
    folder.save_receipts(2, folder.receipts("metrics"))
    with pytest.raises(AuditError, match="round 2, site-1: its purpose is wrong"):
        audit_run(folder)


def test_receipts_that_are_missing_are_missed(folder: RunFolder) -> None:
    receipts = folder.receipts("metrics")
    receipts.pop("site-2")
    folder.save_receipts("metrics", receipts)
    with pytest.raises(AuditError, match=r"metrics: expected one receipt from each site.*site-2"):
        audit_run(folder)
    folder.receipts_path("metrics").unlink()
    with pytest.raises(AuditError, match=r"metrics: .* cannot be read"):
        audit_run(folder)


def test_metrics_that_nobody_asked_for_are_found(
    tiny_folder: Path, tmp_path: Path, folder: RunFolder
) -> None:
    plain = simulate(tiny.job(tiny_folder, training={"rounds": 1}), runs=tmp_path, name="plain")
    shutil.copy(folder.path / "metrics.json", plain.folder)
    with pytest.raises(AuditError, match="the manifest asks for none"):
        audit_run(RunFolder.open(plain.folder))


def test_metrics_of_another_epsilon_are_found(folder: RunFolder) -> None:
    path = folder.path / "metrics.json"
    path.write_text(path.read_text().replace('"epsilon": 2.0', '"epsilon": 1.0'))
    with pytest.raises(AuditError, match="of another epsilon"):
        audit_run(folder)


def test_a_ledger_without_the_charge_is_named(folder: RunFolder) -> None:
    """A site that signed for metrics and whose ledger knows only of training up to there."""
    receipts = folder.receipts("metrics")
    receipt = receipts["site-1"].read(folder.public_keys["site-1"])
    for number, words in (
        (1, "its ledger holds no charge"),
        (2, "its ledger stands where it stood before"),
    ):
        trained = folder.receipts(number)["site-1"].read(folder.public_keys["site-1"])
        lie = sign_receipt(identity(folder, "site-1"), replace(receipt, head=trained.head))
        folder.save_receipts("metrics", receipts | {"site-1": lie})
        with pytest.raises(AuditError, match=f"metrics, site-1: {words}"):
            audit_run(folder, ledgers(folder))
