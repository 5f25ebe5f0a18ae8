"""Cohorts where something fails: a site is away in its round, or the run is killed in the middle of one."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from confide import audit_run, resume, simulate
from privacy.ledger.entries import Released
from privacy.ledger.ledger_audit import audit_ledger
from privacy.ledger.ledger_book import LedgerBook
from protocol.job.job import Job
from protocol.messages.confide_pb2 import Request
from runs.run_folder import RunFolder
from server.post.post import Exchange
from simulation import simulated_run
from simulation.local_post import OpenPost
from simulation.simulated_federation import World
from tests import tiny

SITES, DRAWN = 6, 3
# Two of three uncover a round's sum.
MASKS = {"kind": "masks", "threshold": 2}


def make_job(folder: Path, *, rounds: int, **changes: Any) -> Job:
    asked: dict[str, Any] = {
        "federation": {"sites": SITES, "cohort": DRAWN},
        "training": {"rounds": rounds, "local_steps": 1, "batch_size": 8, "physical_batch_size": 8},
        "seeds": {"noise": 1},
    }
    return tiny.job(folder, **asked | changes)


def charged(run: Path, site: str) -> Counter[int]:
    """How often each round was charged to a site, as its ledger in the run's book says."""
    entries = audit_ledger(run / "sites" / "book.db", site=site).entries
    return Counter(entry.event.round for entry in entries if isinstance(entry.event, Released))


# Away.


def run_without(away: str, number: int, job: Job, path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run in which one site answers nothing in one round."""

    class Post(OpenPost):
        def ask(self, requests: Mapping[str, Request], *, round_number: int, **how: Any) -> Exchange:
            if round_number != number:
                return super().ask(requests, round_number=round_number, **how)
            reached = {name: request for name, request in requests.items() if name != away}
            aside = {name: one for name, one in (how.pop("side_requests") or {}).items() if name != away}
            found = super().ask(reached, round_number=round_number, side_requests=aside, **how)
            return replace(found, silent={away: "it is not connected"} if away in requests else {})

    monkeypatch.setattr(simulated_run, "OpenPost", Post)
    return RunFolder.open(simulate(job, runs=path, name="run", workers=1).folder)


def away_jobs(folder: Path) -> tuple[Job, Job]:
    """Four rounds, each of two sites at least: plain and under masks."""
    changes = {"rounds": 4, "federation": {"sites": SITES, "cohort": DRAWN, "min_sites": 2}}
    return make_job(folder, **changes), make_job(folder, **changes, aggregation=MASKS)


@pytest.mark.exhaustive
def test_a_masked_cohort_goes_on_without_a_site_that_is_away(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = away_jobs(tiny_folder)
    world = World(jobs[0])
    draw = world.manifest("run").drawn
    away = min(draw(2) & draw(4))
    folders = [run_without(away, 2, job, tmp_path / job.aggregation.kind, monkeypatch) for job in jobs]
    for folder in folders:
        records = folder.records()
        assert [record.present for record in records] == [
            draw(number) - ({away} if number == 2 else set()) for number in (1, 2, 3, 4)
        ]
        assert [record.absent for record in records] == [[], [away], [], []]
        # It is charged for its other round alone.
        assert charged(folder.path, away) == {4: 1}
        audited = audit_run(folder.path, ledgers=[folder.path / "sites" / "book.db"])
        (site,) = (site for site in audited.sites if site.site == away)
        assert (site.taken, site.planned) == (1, 2)
    sums = [folder.load_adapter(4, world.adapted.layout) for folder in folders]
    # The same noise in both: they differ by the steps of the masks' grid alone.
    np.testing.assert_allclose(sums[1], sums[0], atol=1e-3 * np.abs(sums[0]).max())


def test_who_was_away_has_not_dealt_for_the_next_round_either(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is back when the others have dealt for the third round: it misses that, and pays for none."""
    _, masked = away_jobs(tiny_folder)
    draw = World(masked).manifest("run").drawn
    away = min(draw(2) & draw(3))
    folder = run_without(away, 2, masked, tmp_path, monkeypatch)
    assert [record.absent for record in folder.records()] == [[], [away], [away], []]
    assert [len(record.present) for record in folder.records()] == [3, 2, 2, 3]
    assert charged(folder.path, away) == {}
    audit_run(folder.path, ledgers=[folder.path / "sites" / "book.db"])


# Killed.


def run_to_its_kill(job: Job, path: Path, monkeypatch: pytest.MonkeyPatch, *, charged: bool) -> Path:
    """A run in a process of its own, killed in its second round: before its charges are on disk, or after.

    What sites join with is the first commit, and each round one more.
    """
    child = os.fork()
    if not child:
        commits, commit = Counter[str](), LedgerBook.commit

        def killed(book: LedgerBook) -> None:
            commits["all"] += 1
            if charged:
                commit(book)
            if commits["all"] == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            if not charged:
                commit(book)

        try:
            monkeypatch.setattr(LedgerBook, "commit", killed)
            simulate(job, runs=path, name="run", workers=1)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert len(RunFolder.open(path / "run").records()) == 1
    return path / "run"


def adapters(run: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(run.glob("rounds/*/adapter_model.safetensors"))]


@pytest.mark.exhaustive
@pytest.mark.parametrize("charged_before", [False, True])
def test_a_keyed_run_that_was_killed_in_a_round_ends_as_if_it_never_was(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, charged_before: bool
) -> None:
    job = make_job(tiny_folder, rounds=4)
    whole = simulate(job, runs=tmp_path / "whole", name="run", workers=1).folder
    cut = run_to_its_kill(job, tmp_path / "cut", monkeypatch, charged=charged_before)
    resume(cut, workers=1)
    assert adapters(cut) == adapters(whole)
    assert len(adapters(cut)) == 5
    draw = RunFolder.open(cut).manifest.drawn
    for number in range(1, SITES + 1):
        site = f"site-{number}"
        assert charged(cut, site) == dict.fromkeys((n for n in (1, 2, 3, 4) if site in draw(n)), 1)
    audit_run(cut, ledgers=[cut / "sites" / "book.db"])


@pytest.mark.exhaustive
@pytest.mark.parametrize("charged_before", [False, True])
def test_fresh_noise_that_was_charged_before_a_kill_stays_charged(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, charged_before: bool
) -> None:
    """Each site plans for its one round: where that was charged, it has no step left to take again."""
    job = make_job(tiny_folder, rounds=2, seeds={})
    cut = run_to_its_kill(job, tmp_path, monkeypatch, charged=charged_before)
    assert len(resume(cut, workers=1).rounds) == (1 if charged_before else 2)
    for number in (1, 2):
        for site in RunFolder.open(cut).manifest.drawn(number) or ():
            assert charged(cut, site) == {number: 1}
