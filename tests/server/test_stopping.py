"""Runs that stop once the held-out loss falls no more, and the adapter of the best round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from privacy.errors import JobError, UserError
from protocol.job.strategy import State
from runs.best_round import best_round, has_stopped
from runs.export import export_adapter
from runs.report.notices import find_notices
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from server.evaluation import Score
from server.rounds import run_rounds
from server.service.server_status import _run
from tests.server.runs import LAYOUT, make_job, make_record, make_run
from tests.server.scripted import ScriptedPost, make_folder, run_job

LOSSES = (0.5, 0.4, 0.45, 0.41, 0.3, 0.2)


class Losses:
    """An evaluator that finds these losses, round after round, from the one after ``done``."""

    def __init__(self, done: int = 0) -> None:
        self.left = list(LOSSES[done:])

    def score(self, _adapter: np.ndarray) -> Score:
        loss = self.left.pop(0)
        return Score(loss=loss, measures={"accuracy": 0.5, "loss": loss})

    def outcomes(self, _adapters: list[np.ndarray]) -> list[Any]:
        return []


def folder_with(path: Path, patience: int | None) -> RunFolder:
    job = run_job(rounds=6)
    return make_folder(path, job.model_copy(update={"training": _patient(job.training, patience)}))


def _patient(training: Any, patience: int | None) -> Any:
    return training.model_copy(update={"patience": patience})


def go(folder: RunFolder, post: ScriptedPost, *, stop_after: int | None = None) -> None:
    evaluator: Any = Losses(len(folder.records()))

    def listener(record: Any) -> None:
        if record.round == stop_after:
            raise KeyboardInterrupt

    run_rounds(post, folder, layout=LAYOUT, evaluator=evaluator, listener=listener)


@pytest.mark.parametrize(("patience", "rounds"), [(None, 6), (1, 3), (2, 4), (3, 6), (100, 6)])
def test_a_run_stops_after_so_many_rounds_without_a_lower_loss(
    tmp_path: Path, patience: int | None, rounds: int
) -> None:
    folder = folder_with(tmp_path / "run", patience)
    post = ScriptedPost(folder)
    go(folder, post)
    assert len(folder.records()) == rounds
    # What was not asked for was not charged, and the audit of what was finds the receipts whole.
    steps = folder.manifest.job.steps_in(1)
    assert set(post.taken.values()) == {rounds * steps}
    assert len(audit_run(folder).sites) == 3


@pytest.mark.parametrize("killed_after", [1, 3, 4])
def test_a_run_that_was_killed_stops_where_it_would_have(tmp_path: Path, killed_after: int) -> None:
    folder = folder_with(tmp_path / "run", 2)
    first = ScriptedPost(folder)
    with pytest.raises(KeyboardInterrupt):
        go(folder, first, stop_after=killed_after)
    second = ScriptedPost(folder, before=first)
    go(folder, second)
    assert [record.loss for record in folder.records()] == list(LOSSES[:4])
    if killed_after == 4:
        assert "train" not in {kind for _, kind, _, _ in second.asked}


def test_the_report_and_the_status_say_so(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "run", 2)
    go(folder, ScriptedPost(folder))
    told = {notice.title: notice for notice in find_notices(folder.manifest, folder.records())}
    assert "after 4 of 6 rounds, as training.patience = 2 asks" in told["Stopped early"].text
    assert "Round 2 has the lowest held-out loss, 0.4000" in told["The best round is not the last"].text
    assert "Unfinished" not in told
    assert not told["Stopped early"].grave
    assert _run(folder.path).state == "finished"


def test_of_rounds_that_only_add_up_none_is_called_best(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "run", 2)
    go(folder, ScriptedPost(folder))
    summing = folder.manifest.job.model_copy(update={"task": "series-anomaly"})
    for job, told in ((folder.manifest.job, True), (summing, False)):
        notices = find_notices(replace(folder.manifest, job=job), folder.records())
        assert ("The best round is not the last" in {notice.title for notice in notices}) == told


def test_the_first_of_equal_rounds_is_best() -> None:
    records = [make_record(number, loss=loss) for number, loss in enumerate((2.0, 1.0, 1.0), start=1)]
    best = best_round(records)
    assert best is not None
    assert best.round == 2
    assert best_round([]) is None
    assert not has_stopped(make_job(training={"rounds": 9, "patience": 1}), [])


def test_the_best_rounds_adapter_is_exported(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", make_job(training={"rounds": 4}), [], exported_beside=[])
    with pytest.raises(UserError, match="no round has finished"):
        export_adapter(folder, tmp_path / "none", best=True)
    assert not (tmp_path / "none").exists()
    for number, loss in enumerate(LOSSES[:4], start=1):
        state = State(adapter=np.full(4, number, np.float32), memory={"kept": np.zeros(1, np.float32)})
        folder.finish_round(make_record(number, loss=loss, epsilon={}), LAYOUT, state)
    assert exported(folder, tmp_path / "best", best=True) == [2.0] * 4
    assert exported(folder, tmp_path / "last", best=False) == [4.0] * 4


def exported(folder: RunFolder, to: Path, *, best: bool) -> Sequence[float]:
    export_adapter(folder, to, best=best)
    assert {path.name for path in to.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    return list(load_file(to / "adapter_model.safetensors")["b"].ravel())


def test_metrics_after_the_last_planned_round_do_not_go_with_it() -> None:
    with pytest.raises(JobError, match=r"training\.patience: expected none with metrics\.epsilon > 0"):
        make_job(training={"patience": 3}, metrics={"epsilon": 1.0})
