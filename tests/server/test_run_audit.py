"""An auditor finds each way to tamper with a run, and names the round and the site."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from client.home import Home
from privacy.errors import AuditError, ConfideError, LedgerError
from privacy.identity import Identity
from privacy.ledger import Charge
from privacy.mechanisms import Mechanism
from privacy.receipt import Receipt, sign_receipt
from server.run_audit import audit_run
from server.run_folder import RoundRecord, RunFolder
from simulation.progress import Silence
from simulation.simulate import resume, simulate
from tests import tiny

SITES = ("site-1", "site-2", "site-3")


class Witness(Silence):
    """Copies a site's home as it is after each round."""

    def __init__(self, run: Path, copies: Path) -> None:
        self._site, self._copies = run / "sites" / "site-2", copies

    def round(self, record: RoundRecord) -> None:
        shutil.copytree(self._site, self._copies / str(record.round))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run of three rounds; ``earlier[n]`` is site-2's home as it was after round n."""

    run: Path
    earlier: dict[int, Path]


@pytest.fixture(scope="module")
def evidence(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("evidence")
    witness = Witness(folder / "run", folder / "copies")
    simulate(tiny.job(tiny_folder), runs=folder, name="run", progress=witness)
    return Evidence(run=folder / "run", earlier={n: folder / "copies" / str(n) for n in (1, 2, 3)})


@pytest.fixture
def run(evidence: Evidence, tmp_path: Path) -> RunFolder:
    shutil.copytree(evidence.run, tmp_path / "run", symlinks=True)
    return RunFolder.open(tmp_path / "run")


def ledgers(run: RunFolder, *sites: str) -> list[Path]:
    return [run.path / "sites" / site / "ledger.db" for site in sites or SITES]


def identity(run: RunFolder) -> Identity:
    """site-2's key."""
    return Identity.load(run.path / "sites" / "site-2" / "identity.key")


def receipt(run: RunFolder, number: int) -> Receipt:
    """site-2's."""
    return run.receipts(number)["site-2"].read(run.public_keys["site-2"])


def resign(folder: RunFolder, number: int, /, **changes: Any) -> None:
    """site-2 itself says something else, and the coordinator's own record goes along."""
    changed = replace(receipt(folder, number), **changes)
    signed = {"site-2": sign_receipt(identity(folder), changed)}
    folder.save_receipts(number, folder.receipts(number) | signed)
    if "epsilon" in changes:
        tell(folder, number, changed.epsilon)


def tell(run: RunFolder, number: int, epsilon: float | None) -> None:
    """Change site-2's ε in a line of rounds.jsonl."""
    path = run.path / "rounds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number - 1]["epsilon"]["site-2"] = epsilon
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def found(run: RunFolder, told: list[Path] | None = None) -> str:
    """What the audit says is wrong."""
    with pytest.raises(ConfideError) as caught:
        audit_run(run, told or [])
    return str(caught.value)


@pytest.mark.parametrize("told", [(), ("site-2",), SITES], ids=["no ledger", "one", "all"])
def test_an_honest_run_passes(run: RunFolder, told: tuple[str, ...]) -> None:
    audit = audit_run(run, ledgers(run, *told) if told else [])
    assert (audit.run, audit.rounds, audit.manifest) == ("run", 3, run.manifest.digest.hex())
    assert (audit.epsilon, audit.delta) == (8.0, 1e-3)
    assert [site.site for site in audit.sites] == list(SITES)
    for site in audit.sites:
        assert (site.taken, site.planned, site.rounds) == (6, 6, 3)
        assert site.epsilon == run.records()[-1].epsilon[site.site]
        # The second accountant's is an upper bound too, less than 1 % and 0.002 above the exact value.
        assert site.recomputed == pytest.approx(site.epsilon, rel=0.012)
        assert site.charged == (3 if site.site in told else None)


def test_a_receipts_changed_byte(run: RunFolder) -> None:
    def change(table: dict[str, Any]) -> None:
        assert '"steps":2' in table["site-2"]["content"]
        table["site-2"]["content"] = table["site-2"]["content"].replace('"steps":2', '"steps":1')

    edit_json(run.receipts_path(2), change)
    assert found(run) == "round 2, site-2: the signature does not fit: receipt"


def test_a_receipts_changed_signature(run: RunFolder) -> None:
    def change(table: dict[str, Any]) -> None:
        signature = table["site-2"]["signature"]
        table["site-2"]["signature"] = ("0" if signature[0] != "0" else "1") + signature[1:]

    edit_json(run.receipts_path(2), change)
    assert found(run).startswith("round 2, site-2: the signature does not fit")


def test_a_receipt_that_is_gone(run: RunFolder) -> None:
    edit_json(run.receipts_path(2), lambda table: table.pop("site-2"))
    assert found(run) == "round 2: expected one receipt from each site; it is otherwise for site-2"


def test_a_receipt_too_many(run: RunFolder) -> None:
    edit_json(run.receipts_path(2), lambda table: table.update({"site-4": table["site-2"]}))
    assert found(run) == "round 2: expected one receipt from each site; it is otherwise for site-4"


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b'{"site-1": 3}', b"\xff"])
def test_a_rounds_receipts_that_are_none(run: RunFolder, content: bytes | None) -> None:
    path = run.receipts_path(2)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    words = found(run)
    assert words.startswith("round 2: ")
    assert "cannot be read" in words or "receipt" in words


def test_receipts_swapped_between_sites(run: RunFolder) -> None:
    def swap(table: dict[str, Any]) -> None:
        table["site-2"], table["site-3"] = table["site-3"], table["site-2"]

    edit_json(run.receipts_path(2), swap)
    assert found(run).startswith("round 2, site-2: the signature does not fit")


def test_sites_swapped_with_their_keys(run: RunFolder) -> None:
    """The signatures fit then, and the names in what was signed do not."""

    def swap(table: dict[str, Any]) -> None:
        table["site-2"], table["site-3"] = table["site-3"], table["site-2"]

    edit_json(run.path / "sites.json", swap)
    for number in (1, 2, 3):
        edit_json(run.receipts_path(number), swap)
    assert found(run) == "round 1, site-2: its site is wrong: expected site-2, got site-3"


def test_a_replaced_key(run: RunFolder) -> None:
    other = Identity.generate().public.hex()
    edit_json(run.path / "sites.json", lambda table: table.update({"site-2": other}))
    assert found(run).startswith("round 1, site-2: the signature does not fit")
    assert "whose key is none of this run's" in found(run, ledgers(run))


@pytest.mark.parametrize("change", ["lost", "added"])
def test_a_site_that_is_not_in_the_manifest(run: RunFolder, change: str) -> None:
    def edit(table: dict[str, Any]) -> None:
        if change == "lost":
            del table["site-2"]
        else:
            table["site-4"] = Identity.generate().public.hex()

    edit_json(run.path / "sites.json", edit)
    joined = 2 if change == "lost" else 4
    assert found(run) == f"the manifest is for 3 sites, and {joined} joined"


@pytest.mark.parametrize("claimed", [0.5, None, 7.0])
def test_another_epsilon_in_the_coordinators_record(run: RunFolder, claimed: float | None) -> None:
    tell(run, 2, claimed)
    signed = receipt(run, 2).epsilon
    words = f"round 2, site-2: its epsilon in rounds.jsonl is wrong: expected {signed}, got {claimed}"
    assert found(run) == words


def test_a_receipt_of_the_round_before(run: RunFolder) -> None:
    kept = run.receipts(1)["site-2"]
    run.save_receipts(2, run.receipts(2) | {"site-2": kept})
    tell(run, 2, receipt(run, 1).epsilon)
    assert found(run) == "round 2, site-2: its round is wrong: expected 2, got 1"


def test_a_receipt_that_counts_the_round_before_again(run: RunFolder) -> None:
    before = receipt(run, 1)
    resign(run, 2, taken=before.taken, epsilon=before.epsilon)
    assert found(run) == "round 2, site-2: after 2 of 6 steps, and 2 more, it counts 2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": "other"}, "its run is wrong: expected run, got other"),
        ({"manifest": "0" * 64}, "its manifest is wrong"),
        ({"round": 3}, "its round is wrong: expected 2, got 3"),
        ({"site": "site-1"}, "its site is wrong"),
        ({"purpose": "metrics"}, "its purpose is wrong: expected training, got metrics"),
        ({"steps": 1}, "its number of steps is wrong: expected 2, got 1"),
        ({"taken": 3}, "after 2 of 6 steps, and 2 more, it counts 3"),
        ({"taken": 7}, "after 2 of 6 steps, and 2 more, it counts 7"),
        ({"budget": 9.0}, "its budget is wrong: expected 8.0, got 9.0"),
    ],
)
def test_a_site_that_signs_something_else(run: RunFolder, changes: dict[str, Any], words: str) -> None:
    resign(run, 2, **changes)
    assert found(run).startswith(f"round 2, site-2: {words}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mechanism": Mechanism(name="gaussian", multiplier=5.0)}, "its plan is wrong"),
        ({"mechanism": Mechanism(name="laplace", multiplier=5.0)}, "its mechanism is wrong"),
        ({"sampling_rate": 0.1}, "its plan is wrong"),
        ({"steps": 5}, "its number of planned steps is wrong: expected 6, got 5"),
        ({"delta": 0.1}, "its delta is wrong: expected 0.001, got 0.1"),
        ({"clipping_norm": 0.5}, "its clipping norm is wrong: expected 1.0, got 0.5"),
    ],
)
def test_a_site_that_signs_another_plan(run: RunFolder, changes: dict[str, Any], words: str) -> None:
    resign(run, 2, plan=replace(receipt(run, 2).plan, **changes))
    assert found(run).startswith(f"round 2, site-2: {words}")


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_lower_epsilon_under_the_sites_own_key(run: RunFolder, share: float) -> None:
    """Signature, manifest and rounds.jsonl all agree: only counting again tells."""
    claimed = receipt(run, 2).epsilon * share
    resign(run, 2, epsilon=claimed)
    words = found(run)
    assert words.startswith(f"round 2, site-2: it claims epsilon={claimed}, a second accountant finds 6.")


@pytest.mark.parametrize("claimed", [None, float("nan"), -1.0])
def test_an_epsilon_that_is_none(run: RunFolder, claimed: float | None) -> None:
    resign(run, 2, epsilon=claimed)
    assert found(run).startswith("round 2, site-2: ")


def test_less_noise_than_the_budget_allows(run: RunFolder) -> None:
    """What it claims is true, and more than was agreed."""
    plan = receipt(run, 1).plan
    noisy = replace(plan, mechanism=replace(plan.mechanism, multiplier=plan.mechanism.multiplier * 0.8))
    for number in (1, 2, 3):
        epsilon = noisy.epsilon_after(2 * number)
        resign(run, number, plan=noisy, epsilon=epsilon)
    over = next(number for number in (1, 2, 3) if noisy.epsilon_after(2 * number) > 8.0)
    assert found(run).startswith(f"round {over}, site-2: epsilon=")
    assert "is over the run's budget of 8" in found(run)


@pytest.mark.parametrize("canonical", [False, True])
def test_a_changed_manifest(run: RunFolder, canonical: bool) -> None:
    path = run.path / "manifest.json"
    content = path.read_text()
    assert '"epsilon":8.0' in content
    changed = content.replace('"epsilon":8.0', '"epsilon":9.0' if canonical else '"epsilon": 8.0')
    path.write_text(changed)
    words = found(run)
    if canonical:
        assert words.startswith("round 1, site-1: its manifest is wrong")
    else:
        assert "not in its canonical form" in words


def test_a_ledger_of_another_run_under_the_same_key(run: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("identity.key", "site.toml"):
        shutil.copy(run.path / "sites" / "site-2" / name, other / name)
    home = Home(other)
    ledger = home.open_ledger("site-2", home.identity())
    dataset = ledger.register([bytes(32)])
    plan = receipt(run, 1).plan
    for number in (1, 2, 3):
        ledger.reserve(
            Charge(dataset=dataset, run="else", manifest="0" * 64, plan=plan, round=number, steps=2)
        )
    ledger.close()
    words = found(run, [other / "ledger.db"])
    assert words.startswith("round 1, site-2: its ledger has no entry")
    assert "entries are lost, or it is another ledger" in words


def test_a_ledger_of_no_site_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    shutil.copy(run.path / "sites" / "site-2" / "site.toml", tmp_path / "site.toml")
    home = Home(tmp_path)
    home.open_ledger("site-2", home.identity()).close()
    assert found(run, [home.ledger_path]) == (
        f"{home.ledger_path} is the ledger of a site site-2 whose key is none of this run's"
    )


@pytest.mark.parametrize("after", [1, 2])
def test_a_ledger_rolled_back_with_its_head(run: RunFolder, evidence: Evidence, after: int) -> None:
    """An older copy that is whole in itself: only the receipts know that there was more."""
    told = [evidence.earlier[after] / "ledger.db"]
    words = found(run, told)
    assert words.startswith(f"round {after + 1}, site-2: its ledger has no entry")
    # What it still holds agrees, so before the next round nobody could have known.
    path = run.path / "rounds.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:after]))
    assert [site.charged for site in audit_run(run, told).sites] == [None, after, None]


def test_a_ledger_whose_database_alone_is_rolled_back(run: RunFolder, evidence: Evidence) -> None:
    site = run.path / "sites" / "site-2"
    for path in evidence.earlier[1].glob("ledger.db*"):
        shutil.copy(path, site / path.name)
    with pytest.raises(LedgerError, match="an older copy of the database was put back"):
        audit_run(run, ledgers(run, "site-2"))


@pytest.mark.parametrize("old", [b'"round":2', b'"taken":4', b'"name":"gaussian"'])
def test_a_ledger_with_a_changed_entry(run: RunFolder, old: bytes) -> None:
    (path,) = ledgers(run, "site-2")
    database = sqlite3.connect(path)
    rows = database.execute("SELECT number, body FROM entries").fetchall()
    number, body = next((number, body) for number, body in rows if old in body)
    changed = body.replace(old, old.replace(b"2", b"1").replace(b"4", b"2").replace(b"gauss", b"lapla"))
    assert changed != body
    database.execute("UPDATE entries SET body = ? WHERE number = ?", (changed, number))
    database.commit()
    database.close()
    with pytest.raises(LedgerError) as caught:
        audit_run(run, [path])
    assert caught.value.entry == number


def test_a_ledger_that_is_not_there(run: RunFolder) -> None:
    assert "no ledger at" in found(run, [run.path / "ledger.db"])


def test_a_run_that_nobody_joined_has_nothing_to_show(run: RunFolder) -> None:
    (run.path / "sites.json").unlink()
    assert found(run) == "the manifest is for 3 sites, and 0 joined"


def test_a_run_without_noise_is_audited_without_epsilon(tiny_folder: Path, tmp_path: Path) -> None:
    job = tiny.job(tiny_folder, privacy={"mechanism": "none"}, training={"rounds": 2})
    simulate(job, runs=tmp_path, name="run")
    run = RunFolder.open(tmp_path / "run")
    for told in ([], ledgers(run)):
        audit = audit_run(run, told)
        assert [(site.epsilon, site.recomputed) for site in audit.sites] == [(None, None)] * 3
        assert [site.charged for site in audit.sites] == [2 if told else None] * 3
    # A run without noise may claim none: whoever says so is named.
    resign(run, 2, epsilon=1.0)
    assert found(run) == "round 2, site-2: there was no noise, and it claims epsilon=1"


def kill_in_round(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Every site has answered the round; nothing of it is written."""
    write = RunFolder.finish_round

    def finish_round(self: RunFolder, record: RoundRecord, *rest: Any) -> None:
        if record.round == number:
            raise Killed
        write(self, record, *rest)

    monkeypatch.setattr(RunFolder, "finish_round", finish_round)


@pytest.mark.parametrize("seed", [None, 5], ids=["fresh noise", "keyed noise"])
def test_an_interrupted_round(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    """With fresh noise it was paid for and lost; keyed noise repeats, and costs nothing again."""
    job = tiny.job(tiny_folder, seeds={} if seed is None else {"noise": seed})
    with monkeypatch.context() as patch:
        kill_in_round(patch, 2)
        with pytest.raises(Killed):
            simulate(job, runs=tmp_path, name="run")
    resume(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    audit = audit_run(run, ledgers(run))
    assert audit.rounds == (2 if seed is None else 3)
    assert [(site.taken, site.charged) for site in audit.sites] == [(6, 3)] * 3
    assert all(site.epsilon == pytest.approx(8.0, rel=0.01) for site in audit.sites)


def test_audit_errors_are_one_kind(run: RunFolder) -> None:
    edit_json(run.receipts_path(3), lambda table: table.pop("site-3"))
    with pytest.raises(AuditError) as caught:
        audit_run(run)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("told", [False, True], ids=["no ledger", "its ledger"])
def test_another_plan_in_every_receipt(run: RunFolder, told: bool) -> None:
    """A site that claims more noise than it added, each ε to match: its ledger knows what it planned."""
    plan = receipt(run, 1).plan
    loud = replace(plan, mechanism=replace(plan.mechanism, multiplier=2 * plan.mechanism.multiplier))
    for number in (1, 2, 3):
        resign(run, number, plan=loud, epsilon=loud.epsilon_after(2 * number))
    if told:
        assert found(run, ledgers(run)).startswith("round 1, site-2: its plan, by its ledger, is wrong")
    else:
        audit_run(run)  # only a site's word, as the command says


def test_a_repeated_round_of_which_only_the_first_try_is_told(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_in_round(patch, 2)
        with pytest.raises(Killed):
            simulate(tiny.job(tiny_folder), runs=tmp_path, name="run")
    resume(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    plan = receipt(run, 2).plan
    resign(run, 2, taken=4, epsilon=plan.epsilon_after(4))
    audit_run(run)
    words = "round 2, site-2: its count of steps, by its ledger, is wrong: expected 6, got 4"
    assert found(run, ledgers(run)) == words


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_that_is_left_out(run: RunFolder, number: int) -> None:
    path = run.path / "rounds.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    del lines[number - 1]
    path.write_text("".join(lines))
    assert found(run) == f"round {number}: rounds.jsonl has round {number + 1} in its place"


def test_a_site_too_many_in_the_coordinators_record(run: RunFolder) -> None:
    path = run.path / "rounds.jsonl"
    path.write_text(path.read_text().replace('{"site-1"', '{"site-0": 1.0, "site-1"'))
    assert found(run) == "round 1: rounds.jsonl tells of other sites than joined"


def test_two_ledgers_of_one_site(run: RunFolder, evidence: Evidence) -> None:
    both = [*ledgers(run, "site-2"), evidence.earlier[3] / "ledger.db"]
    assert "is a second ledger of site-2" in found(run, both)


@pytest.mark.parametrize("name", ["rounds.jsonl", "sites.json"])
@pytest.mark.parametrize("content", ["{", "[3]", '{"round": 1}', '{"site-1": 3}', '{"site-1": "x"}'])
def test_records_that_are_none(run: RunFolder, name: str, content: str) -> None:
    (run.path / name).write_text(content + "\n")
    assert f"{name} cannot be read" in found(run)


def test_an_epsilon_that_is_of_no_site(run: RunFolder) -> None:
    path = run.path / "rounds.jsonl"
    lines = [json.loads(line) | {"epsilon": 3.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "rounds.jsonl cannot be read" in found(run)
