"""A privacy card says what the run did, and every change to it, or to what it is of, is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from privacy.accounting.banded_plan import BandedPlan
from privacy.canonical import canonical_json
from privacy.errors import AuditError, UserError
from privacy.identity import Identity
from privacy.mechanisms.mechanism import Mechanism
from protocol.job.job_file import job_toml, parse_job
from runs.export import export_adapter, export_merged
from runs.model_names import hub_id
from runs.privacy_card import FILE, PURPOSE, check_card, read_audit
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.attack.empirical_audit import EmpiricalAudit
from simulation.attack.evidence import evidence as evidence_of
from simulation.simulate import simulate
from tests.confide.test_cli import call
from tests.server.evidence import Evidence
from tests.simulation.attack.made_up_audit import made_up_audit
from tests.tasks.networks import TABULAR, job_table, write_table

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def exported(evidence_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "adapter"
    export_adapter(evidence_run, folder)
    return folder


@pytest.fixture(scope="module")
def evidence_run(evidence: Evidence) -> RunFolder:
    return RunFolder.open(evidence.run)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    table = json.loads((folder / FILE).read_text())
    edit(table)
    (folder / FILE).write_text(json.dumps(table))


def resigned(identity: Identity, table: dict[str, Any]) -> None:
    table["key"] = identity.public.hex()
    table["signature"] = identity.sign(PURPOSE, canonical_json(table["card"])).hex()


def test_a_card_says_what_the_run_did(exported: Path, evidence_run: RunFolder) -> None:
    card, key = check_card(exported)
    audited = audit_run(evidence_run)
    assert key == evidence_run.identity.public.hex()
    assert (card.run, card.round, card.rounds) == ("run", 3, 3)
    assert card.manifest == audited.manifest
    promise = card.privacy
    assert promise.epsilon == max(site.epsilon or 0.0 for site in audited.sites)
    assert (promise.unit, promise.delta, promise.adjacency) == ("example", 1e-3, "zero-out")
    assert (promise.mechanism, promise.accountant) == ("gaussian", "privacy loss distributions")
    assert promise.noise_multipliers is not None
    assert 0.1 < promise.noise_multipliers[0] <= promise.noise_multipliers[1] < 10
    assert (card.crowd.sites, card.crowd.datasets, card.crowd.in_a_round) == (3, 3, 3)
    assert card.files.keys() == {ADAPTER, "adapter_config.json"}
    assert card.audit is None
    assert check_card(exported / FILE, key=key.upper())[0] == card


def test_another_form_of_the_same_json_is_the_same_card(copy: Path) -> None:
    change(copy, lambda _table: None)
    check_card(copy)


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table["card"]["privacy"].update(epsilon=0.5),
        lambda table: table["card"]["privacy"].update(unit="site"),
        lambda table: table["card"].update(round=2),
        lambda table: table["card"].update(audit={"verdict": "not refuted"}),
        lambda table: table["card"].update(more="x"),
        lambda table: table["card"]["files"].pop(ADAPTER),
        lambda table: table.update(signature="00" * 64),
    ],
    ids=["epsilon", "unit", "round", "audit", "another field", "a file less", "signature"],
)
def test_a_field_that_was_changed_is_found(copy: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    change(copy, edit)
    with pytest.raises(AuditError, match="was changed: the signature does not fit"):
        check_card(copy)


def test_another_key_is_found_by_who_knows_the_right_one(copy: Path) -> None:
    right = check_card(copy)[1]
    other = Identity.generate()
    change(copy, lambda table: table["card"]["privacy"].update(epsilon=0.5) or resigned(other, table))
    assert check_card(copy)[0].privacy.epsilon == 0.5  # the card's own word
    with pytest.raises(AuditError, match=f"signed by key {other.public.hex()}, not by {right}"):
        check_card(copy, key=right)
    # The right key's name over the other's signature.
    change(copy, lambda table: table.update(key=right))
    with pytest.raises(AuditError, match="was changed"):
        check_card(copy, key=right)


def test_an_adapter_that_was_changed_is_found(copy: Path) -> None:
    tensors = load_file(copy / ADAPTER)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1e-6
    save_file(tensors, copy / ADAPTER, metadata={"format": "pt"})
    with pytest.raises(AuditError, match=f"{ADAPTER} is not the file that the card is of"):
        check_card(copy)


def test_a_configuration_that_was_changed_or_is_gone_is_found(copy: Path) -> None:
    config = copy / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(AuditError, match=r"adapter_config\.json is not the file"):
        check_card(copy)
    config.unlink()
    with pytest.raises(AuditError, match=r"adapter_config\.json is missing beside the card"):
        check_card(copy)


@pytest.mark.parametrize("name", ["adapter_model.bin", "more/model.safetensors"])
def test_weights_that_the_card_does_not_know_are_found(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"x")
    with pytest.raises(AuditError, match=f"{name} is not among the files"):
        check_card(copy)


def test_what_people_add_is_theirs(copy: Path) -> None:
    for name in ("LICENSE", ".gitattributes", "picture.png"):
        (copy / name).write_text("x")
    (copy / "README.md").write_text("edited")
    check_card(copy)


def test_links_to_where_a_download_keeps_its_files_will_do(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / ADAPTER, tmp_path / "blob")
    (copy / ADAPTER).symlink_to(tmp_path / "blob")
    check_card(copy)


@pytest.mark.parametrize("name", ["../blob", "/etc/hostname"])
def test_a_card_names_no_file_elsewhere(copy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "blob").write_text("x")
    identity = Identity.generate()
    change(copy, lambda table: table["card"]["files"].update({name: "0" * 64}) or resigned(identity, table))
    with pytest.raises(AuditError, match="is missing beside the card"):
        check_card(copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"card": 1, "key": "", "signature": ""}',
        b"\xff",
        b'{"card": {}}',
        b"[" * 10**5,
    ],
)
def test_what_is_no_card_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(AuditError):
        check_card(tmp_path)


def test_a_signed_card_with_other_fields_is_none(copy: Path) -> None:
    identity = Identity.generate()
    change(copy, lambda table: table["card"]["privacy"].update(epsilon="3") or resigned(identity, table))
    with pytest.raises(AuditError, match="cannot be read as a privacy card"):
        check_card(copy)


def test_no_card_and_no_signature(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(AuditError, match="no card at"):
        check_card(tmp_path)
    change(copy, lambda table: table.update(key=None, signature=None))
    with pytest.raises(AuditError, match="is not signed"):
        check_card(copy)


def test_a_run_whose_key_is_elsewhere_makes_no_key_of_its_own(run: RunFolder, tmp_path: Path) -> None:
    run.key_path.unlink()
    export_adapter(run, tmp_path / "adapter")
    assert not run.key_path.exists()
    with pytest.raises(AuditError, match="is not signed"):
        check_card(tmp_path / "adapter")


def test_the_best_rounds_card_is_of_its_rounds(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.export.best_round", lambda records: records[0])
    export_adapter(run, tmp_path / "adapter", best=True)
    card, _ = check_card(tmp_path / "adapter")
    assert card.round == 1
    # Which round it is was chosen by what all of them released.
    assert card.privacy.epsilon == run.records()[-1].highest_epsilon > run.records()[0].highest_epsilon


def test_an_audit_is_in_the_card_if_it_is_of_the_same_job(
    run: RunFolder, tiny_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "audit.json"
    path.write_bytes(evidence_of(made_up_audit(tiny_folder)))
    with pytest.raises(UserError, match="is of another job or model than run run"):
        read_audit(path, run.manifest)
    audit = made_up_audit(tiny_folder)
    path.write_bytes(evidence_of(of_run(audit, run)))
    export_adapter(run, tmp_path / "adapter", audit=read_audit(path, run.manifest))
    card, _ = check_card(tmp_path / "adapter")
    assert card.audit is not None
    assert (card.audit.verdict, card.audit.lower, card.audit.canaries) == ("not refuted", 1.234, 1000)
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert "Verdict: **not refuted**; claimed ε ≤ 3.00, shown ε ≥ 1.23" in text


def of_run(audit: EmpiricalAudit, run: RunFolder) -> EmpiricalAudit:
    """The same audit as if it were of a run's own job and model."""
    digest = hashlib.sha256(job_toml(run.manifest.job).encode()).hexdigest()
    model = run.manifest.model_digest
    return replace(audit, provenance=replace(audit.provenance, job_digest=digest, model_digest=model))


@pytest.mark.parametrize("content", ["{}", "[]", "x", '{"provenance": 1}'])
def test_another_file_is_no_audit(run: RunFolder, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"--audit: expected the \.json"):
        read_audit(tmp_path / "a.json", run.manifest)


def test_correlated_noise_is_told_with_its_coefficients(
    evidence_run: RunFolder, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_card(exported)[0].privacy.coefficients is None
    plan = BandedPlan(
        mechanism=Mechanism(name="gaussian", multiplier=2.0),
        clipping_norm=1.0,
        sampling_rate=0.3,
        steps=8,
        delta=1e-7,
        coefficients=(4096, 3000, 2000),
    )
    monkeypatch.setattr("runs.privacy_card._plans", lambda *_: [plan])
    export_adapter(evidence_run, tmp_path / "adapter")
    card, _ = check_card(tmp_path / "adapter")
    assert card.privacy.coefficients == ((4096, 3000, 2000),)
    assert "| bands of correlated noise | 3 |" in (tmp_path / "adapter" / "README.md").read_text()
    assert "correlated" not in (exported / "README.md").read_text()


def test_the_model_card_is_one_for_the_hub(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "peft"
    assert data["pipeline_tag"] == "text-classification"
    assert {"lora", "differential-privacy", "federated-learning"} <= set(data["tags"])
    assert not {"license", "base_model"} & data.keys()  # the base is a folder here
    assert "**ε = 8.00 at δ = 0.001** for each example" in card.text
    assert "| adjacency | zero-out |" in card.text
    assert "confide audit card ." in card.text
    assert "`sequence-classification` on `model`" in card.text  # and not where it lies
    assert check_card(exported)[0].model == "model"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("org/model-1.5", "org/model-1.5"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("package:gt/model", None),
        ("/models/bert", None),
        ("./bert", None),
        ("a/b/c", None),
    ],
)
def test_a_hub_id_is_told_from_a_place(source: str, found: str | None) -> None:
    assert hub_id(source) == found


def test_a_folder_that_is_there_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert hub_id("org/model") is None


def test_the_command(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = check_card(copy)[1]
    assert call(monkeypatch, "audit", "card", copy) == 0
    told = capfd.readouterr().out
    assert "run: 2 files, each as it was signed for" in told
    assert "ε = 8.00 at δ = 0.001 for each example, gaussian noise" in told
    assert "Caution: without the coordinator's key" in told
    assert max(map(len, told.splitlines())) <= 80
    assert call(monkeypatch, "audit", "card", copy, "--key", key, "--json") == 0
    table = json.loads(capfd.readouterr().out)
    assert (table["ok"], table["key"], table["card"]["run"]) == (True, key, "run")
    (copy / ADAPTER).write_bytes(b"")
    assert call(monkeypatch, "audit", "card", copy) == 1
    assert "is not the file that the card is of" in capfd.readouterr().err


def test_a_network_of_a_tasks_own_names_no_base_model(tmp_path: Path) -> None:
    job = parse_job(job_table("tabular", write_table(tmp_path / "table.csv"), TABULAR))
    folder = RunFolder.open(simulate(job, runs=tmp_path, name="run").folder)
    export_adapter(folder, tmp_path / "part")
    export_merged(folder, tmp_path / "whole")
    for name, told in (("part", "confide export --merge"), ("whole", "The folder’s own program loads it")):
        card, _ = check_card(tmp_path / name)
        assert card.model == "drawn"
        found = ModelCard.load(tmp_path / name / "README.md")
        assert not {"base_model", "library_name"} & found.data.to_dict().keys()
        assert "lora" not in found.data.tags
        assert told in found.text.replace("'", "’")
