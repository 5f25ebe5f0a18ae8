"""Whole runs by each way to sum: under masks, with noise in the sum, with fewer numbers sent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.errors import JobError
from privacy.ledger.entries import Summed
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.job import Job
from protocol.job.layout import AdapterLayout
from protocol.sums.sparsification import kept_count
from protocol.sums.update_encoding import make_encoding, update_noise_std
from runs.comparison import ALONE, WITHOUT_PRIVACY
from runs.run import Run
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.privacy.grids import rounding_std
from tests.server.evidence import edit_json, found, receipt, resign

MASKS: dict[str, Any] = {"aggregation": {"kind": "masks"}, "training": {"rounds": 2}}
KEYED: dict[str, Any] = {"seeds": {"noise": 5}}
FFA: dict[str, Any] = {"strategy": {"name": "ffa"}}
NONE: dict[str, Any] = {"aggregation": {"kind": "none"}}
SITE: dict[str, Any] = {
    **MASKS,
    **FFA,
    "privacy": {"unit": "site", "mechanism": "skellam", "epsilon": 50.0, "clipping_norm": 0.5},
}
CENTRAL: dict[str, Any] = SITE | {
    "privacy": SITE["privacy"] | {"mechanism": "gaussian", "noise": "central"}
}


def job(folder: Path, **changes: Any) -> Job:
    return tiny.job(folder, **changes)


@pytest.fixture(scope="module")
def layout(tiny_folder: Path) -> AdapterLayout:
    return World(tiny.job(tiny_folder)).adapted.layout


def adapter(run: Run, layout: AdapterLayout) -> np.ndarray:
    return RunFolder.open(run.folder).load_adapter(len(run.rounds), layout)


def ledgers(run: Run) -> list[Path]:
    return sorted(run.folder.glob("sites/*/ledger.db"))


def check_audits(run: Run) -> None:
    audit = audit_run(RunFolder.open(run.folder), ledgers(run))
    assert audit.rounds == len(run.rounds)
    assert len(audit.sites) == 3


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = MASKS | KEYED | FFA | {"aggregation": {"kind": "none"}}
    return simulate(job(tiny_folder, **changes), runs=tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def masked(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("masked")
    return simulate(job(tiny_folder, **MASKS, **KEYED, **FFA), runs=runs, name="run")


@pytest.fixture(scope="module")
def whole_site(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(job(tiny_folder, **SITE), runs=tmp_path_factory.mktemp("site"), name="run")


def tolerance(run: Run, layout: AdapterLayout, *, rounds: int = 1) -> float:
    """How far a coordinate of the adapter may be from that of a run without masks, after so many rounds.

    With 32 bits, stochastic rounding moves each coordinate of a mean by less than one grid step; with fewer
    it moves a rotated one with a deviation of ``rounding_std``, and six of these are beyond chance. Means
    and adapters are float32 below 2: 2^-23 for each. Later rounds start from what was moved, and train on
    that: by less than as much again, of this tiny job.
    """
    folder = RunFolder.open(run.folder)
    manifest = folder.manifest
    receipt = folder.receipts(1)["site-1"].read(folder.public_keys["site-1"])
    encoding = make_encoding(
        manifest,
        update_size=layout.update_size,
        number=1,
        # Sites of other sizes add other noise: by far less than half as much again.
        noise_std=1.5 * update_noise_std(manifest.job, receipt.plan),
    )
    step = 1.0 / encoding.scale if encoding.rotation is None else 6 * rounding_std(encoding, count=3)
    return (step + 2.0**-22) * (1 if rounds == 1 else 2 * rounds)


def apart(one: Run, other: Run, layout: AdapterLayout, *, after: int) -> float:
    adapters = [RunFolder.open(run.folder).load_adapter(after, layout) for run in (one, other)]
    return float(np.abs(adapters[0] - adapters[1]).max())


def test_masks_change_no_more_than_the_rounding(plain: Run, masked: Run, layout: AdapterLayout) -> None:
    for number in (1, 2):
        most = tolerance(masked, layout, rounds=number)
        assert apart(plain, masked, layout, after=number) <= most
        before = RunFolder.open(plain.folder).load_adapter(number - 1, layout)
        moved = np.abs(RunFolder.open(plain.folder).load_adapter(number, layout) - before).max()
        assert moved > 1000 * most
    assert masked.epsilon == plain.epsilon
    check_audits(masked)


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("bits", [16, 20])
def test_fewer_bits_cost_accuracy_and_no_more(
    tiny_folder: Path, tmp_path: Path, plain: Run, layout: AdapterLayout, bits: int
) -> None:
    aggregation = {"aggregation": {"modulus_bits": bits}}
    run = simulate(job(tiny_folder, **(MASKS | KEYED | FFA | aggregation)), runs=tmp_path)
    for number in (1, 2):
        assert apart(plain, run, layout, after=number) <= tolerance(run, layout, rounds=number)
    check_audits(run)
    # The vectors are packed: 2 bytes or 2½ a number, and receipts, keys and shares beside them.
    for record in run.rounds:
        assert 0 < record.bytes_up - 3 * bits / 8 * layout.update_size < 3 * 2_000


def test_bytes_are_those_of_the_words_and_little_more(masked: Run, layout: AdapterLayout) -> None:
    """A round's answer holds float32's size in words; receipts, shares and lists are under 2,000 bytes."""
    for record in masked.rounds:
        assert 0 < record.bytes_up - 3 * 4 * layout.update_size < 3 * 2_000
        assert 0 < record.bytes_down - 3 * 4 * layout.adapter_size < 3 * 2_000


def test_masks_leave_no_secrets_in_the_homes(masked: Run) -> None:
    """A simulated site's secrets are lost with its process; no file could be copied."""
    names = {path.name for home in masked.folder.glob("sites/*") for path in home.rglob("*")}
    assert "ledger.db" in names
    assert not [name for name in names if "secret" in name]


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("strategy", ["fedsvd", "lora"])
def test_masks_serve_every_strategy(tiny_folder: Path, tmp_path: Path, strategy: str) -> None:
    run = simulate(job(tiny_folder, **MASKS, strategy={"name": strategy}), runs=tmp_path)
    assert len(run.rounds) == 2
    check_audits(run)


def test_metrics_under_masks_are_one_sum(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(job(tiny_folder, **MASKS, **KEYED, metrics={"epsilon": 100.0}), runs=tmp_path)
    folder = RunFolder.open(run.folder)
    assert run.metrics is not None
    assert run.metrics.examples == sum(folder.facts["examples_by_site"].values())
    assert run.metrics.told_by == ("site-1", "site-2", "site-3")
    assert json.loads((run.folder / "metrics.json").read_text())["sites"] == {}
    # Whole examples are right or wrong: noise of three sites at ε = 100 moves that by 0.9 with e^-30.
    right = run.metrics.total.right / 2**30
    assert abs(right - round(right)) < 0.9
    assert 0.2 < run.metrics.mean < 0.9
    audit_run(folder, ledgers(run))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("changes", [{}, {"aggregation": {"confirm": False}}])
def test_a_killed_run_goes_on(
    tiny_folder: Path,
    tmp_path: Path,
    masked: Run,
    layout: AdapterLayout,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    write = RunFolder.finish_round

    def finish_round(self: RunFolder, record: Any, *rest: Any) -> None:
        if record.round == 2:
            raise Killed
        write(self, record, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", finish_round)
        with pytest.raises(Killed):
            simulate(job(tiny_folder, **(MASKS | KEYED | FFA | changes)), runs=tmp_path, name="run")
    taken = int((tmp_path / "run" / "counter").read_text())
    run = resume(tmp_path / "run")
    assert int((tmp_path / "run" / "counter").read_text()) > taken
    assert apart(run, masked, layout, after=2) <= 2 * tolerance(masked, layout, rounds=2)
    check_audits(run)


@pytest.mark.process
def test_ray_sums_under_masks(
    tiny_folder: Path, tmp_path: Path, masked: Run, layout: AdapterLayout
) -> None:
    """Its workers take turns in serving a site: what a site keeps secret is in its home."""
    pytest.importorskip("ray")
    run = simulate(job(tiny_folder, **MASKS, **KEYED, **FFA), runs=tmp_path, name="run", engine="ray")
    assert apart(run, masked, layout, after=2) <= 2 * tolerance(masked, layout, rounds=2)
    check_audits(run)


def test_a_comparison_masks_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    """One site alone has no other to mask with."""
    run = simulate(job(tiny_folder, **MASKS), runs=tmp_path, compare=True)
    for name, sites in ((WITHOUT_PRIVACY, 3), (f"{ALONE}/site-1", 1)):
        there = RunFolder.open(run.folder / "compare" / name)
        assert there.manifest.job.aggregation.kind == "none"
        assert len(there.records()) == 2
        assert len(there.public_keys) == sites
        audit_run(there)


# -- One site's whole update


def test_a_whole_site_is_hidden_by_shares_of_noise(whole_site: Run) -> None:
    """A step is a round; each ledger tells how many sites' noise was in its sums."""
    check_audits(whole_site)
    folder = RunFolder.open(whole_site.folder)
    receipts = [folder.receipts(n)["site-1"].read(folder.public_keys["site-1"]) for n in (1, 2)]
    assert [(one.steps, one.taken, one.plan.steps) for one in receipts] == [(1, 1, 2), (1, 2, 2)]
    assert isinstance(receipts[0].plan, SharedSitePlan)
    assert 45.0 < receipts[1].plan.epsilon <= 50.0
    for path in ledgers(whole_site):
        audit = audit_ledger(path)
        told = [entry.event for entry in audit.entries if isinstance(entry.event, Summed)]
        assert [(one.round, one.survivors) for one in told] == [(1, 3), (2, 3)]
        # An example may turn a site's update into any other, twice the bound away.
        assert audit.plans[0].epsilon > receipts[1].plan.epsilon


def test_a_coordinator_that_counts_other_sites_than_theirs_is_found(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Its record and its receipts leave one site out of the first round, whose update was in the sum."""
    few = {"federation": {"sites": 3, "min_sites": 2}, "aggregation": {"threshold": 2}}
    folder = RunFolder.open(simulate(job(tiny_folder, **(SITE | few)), runs=tmp_path, name="run").folder)
    lines = [json.loads(line) for line in (folder.path / "rounds.jsonl").read_text().splitlines()]
    del lines[0]["epsilon"]["site-3"]
    (folder.path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    edit_json(folder.receipts_path(1), lambda table: table.pop("site-3"))
    audit_run(folder)
    words = "round 1, site-2: its number of sites, by its ledger, is wrong: expected 3, got 2"
    assert found(folder, [folder.path / "sites" / "site-2" / "ledger.db"]) == words


def test_what_was_told_of_an_interrupted_sum_is_not_taken_for_the_rounds(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once the sites had told of three; the round is made again, and its charge comes after that."""
    write = RunFolder.finish_round

    def finish_round(self: RunFolder, record: Any, *rest: Any) -> None:
        if record.round == 1 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise Killed
        write(self, record, *rest)

    monkeypatch.setattr(RunFolder, "finish_round", finish_round)
    with pytest.raises(Killed):
        simulate(job(tiny_folder, **SITE), runs=tmp_path, name="run")
    run = resume(tmp_path / "run")
    # The sum that nobody kept was paid for, and the run ends a round earlier.
    assert len(run.rounds) == 1
    for path in ledgers(run):
        told = [entry.event for entry in audit_ledger(path).entries if isinstance(entry.event, Summed)]
        assert [(one.round, one.survivors) for one in told] == [(1, 3), (1, 3)]
    check_audits(run)


def test_a_plan_that_counts_on_more_shares_than_there_are_is_found(whole_site: Run, tmp_path: Path) -> None:
    shutil.copytree(whole_site.folder, tmp_path / "run", symlinks=True)
    folder = RunFolder.open(tmp_path / "run")
    plan = receipt(folder, 1).plan
    resign(folder, 1, plan=replace(plan, shared=replace(plan.shared, min_survivors=9)))
    assert found(folder).startswith("round 1, site-2: its least number of shares of noise is wrong")


@pytest.mark.statistics
def test_a_trusted_coordinator_adds_the_noise(
    tiny_folder: Path, tmp_path: Path, layout: AdapterLayout
) -> None:
    """Under masks it is on another grid, which is turned: drawn otherwise there, and of the same size."""
    found = {}
    for how in ("masks", "none"):
        changes = CENTRAL | KEYED | {"aggregation": {"kind": how}}
        run = simulate(job(tiny_folder, **changes), runs=tmp_path, name=how)
        check_audits(run)
        found[how] = float(np.linalg.norm(adapter(run, layout)))
    # Norms of a hundred noisy numbers and more, which vary by 7 %.
    assert 0.6 < found["masks"] / found["none"] < 1.6
    fresh = [adapter(simulate(job(tiny_folder, **CENTRAL), runs=tmp_path), layout) for _ in range(2)]
    assert np.abs(fresh[0] - fresh[1]).max() > 0.1


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("changes", [SITE, CENTRAL], ids=["shares", "central"])
def test_noise_for_whole_sites_is_compared(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = simulate(job(tiny_folder, **changes), runs=tmp_path, compare=True)
    alone = RunFolder.open(run.folder / "compare" / ALONE / "site-2")
    assert alone.manifest.job.privacy.noise == "central"
    audit_run(alone)


# -- Fewer numbers


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("how", ["masks", "none"])
def test_random_numbers_are_sent(
    tiny_folder: Path, tmp_path: Path, layout: AdapterLayout, how: str
) -> None:
    changes = MASKS | FFA | {"aggregation": {"kind": how}, "compression": {"kind": "random", "share": 0.25}}
    run = simulate(job(tiny_folder, **changes), runs=tmp_path)
    check_audits(run)
    sent = kept_count(layout.update_size, 0.25)
    for record in run.rounds:
        assert 0 < record.bytes_up - 3 * 4 * sent < 3 * 2_000
    folder = RunFolder.open(run.folder)
    moved = folder.load_adapter(1, layout) != folder.load_adapter(0, layout)
    assert 0 < moved.sum() <= sent


def test_the_largest_numbers_are_sent(tiny_folder: Path, tmp_path: Path, layout: AdapterLayout) -> None:
    changes = (
        MASKS | FFA | {"aggregation": {"kind": "none"}, "compression": {"kind": "top-k", "share": 0.1}}
    )
    run = simulate(job(tiny_folder, **changes), runs=tmp_path)
    check_audits(run)
    folder = RunFolder.open(run.folder)
    moved = folder.load_adapter(1, layout) != folder.load_adapter(0, layout)
    assert 0 < moved.sum() <= 3 * kept_count(layout.update_size, 0.1)


def test_a_whole_site_sends_random_numbers(tiny_folder: Path, tmp_path: Path) -> None:
    changes = SITE | {"compression": {"kind": "random", "share": 0.25}}
    check_audits(simulate(job(tiny_folder, **changes), runs=tmp_path))


# -- What cannot be


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"federation": {"sites": 1}}, 'set aggregation.kind="none"'),
        ({"federation": {"sites": 3, "min_sites": 2}}, "needs aggregation.threshold=3 of 3 sites"),
        ({"aggregation": {"threshold": 4}}, "aggregation.threshold=4: expected at most 3"),
        ({"federation": {"sites": 4}, "aggregation": {"threshold": 2}}, r"threshold above 2"),
        ({"aggregation": {"colluding": 2}}, r"\[aggregation\]"),
    ],
)
def test_sums_that_would_not_be_safe_are_no_job(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError, match=words):
        simulate(job(tiny_folder, **(MASKS | changes)), runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_for_noise_is_no_job(tiny_folder: Path, tmp_path: Path) -> None:
    changes = SITE | {"aggregation": {"modulus_bits": 16}}
    changes |= {"privacy": SITE["privacy"] | {"epsilon": 1e-3}}
    with pytest.raises(JobError, match="privacy, aggregation: "):
        simulate(job(tiny_folder, **changes), runs=tmp_path)
    assert list(tmp_path.iterdir()) == []
