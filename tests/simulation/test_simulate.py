"""Whole runs: what they write, that they repeat, and that they go on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import confide
from privacy.errors import DataError, JobError, SiteError
from privacy.ledger import ledger_file
from protocol.job.job_file import job_toml, parse_job
from protocol.job.layout import AdapterLayout
from runs import run_folder
from runs.run import Run
from runs.run_folder import RunFolder
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests import children, tiny

KEYED = {"seeds": {"noise": 5}}


@pytest.fixture(scope="module")
def layout(tiny_folder: Path) -> AdapterLayout:
    return World(tiny.job(tiny_folder)).adapted.layout


def adapter(run: Run, layout: AdapterLayout) -> bytes:
    folder = RunFolder.open(run.folder)
    return folder.load_adapter(len(run.rounds), layout).tobytes()


@pytest.fixture(scope="module")
def undisturbed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(tiny.job(tiny_folder, **KEYED), runs=tmp_path_factory.mktemp("runs"))


def test_a_run_leaves_what_it_promises(undisturbed: Run) -> None:
    folder = undisturbed.folder
    for name in ("job.toml", "manifest.json", "rounds.jsonl", "run.log", "report.html"):
        assert (folder / name).stat().st_size > 0, name
    assert (undisturbed.adapter / "adapter_model.safetensors").exists()
    assert sorted(path.name for path in (folder / "sites").iterdir()) == ["site-1", "site-2", "site-3"]
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert set(lines[0]["epsilon"]) == {"site-1", "site-2", "site-3"}
    assert all(0 < spent <= 8.0 for spent in undisturbed.epsilon.values())


def test_bytes_are_those_of_the_vectors(undisturbed: Run, layout: AdapterLayout) -> None:
    """Three sites; beside its float32 vector a message holds under 200 bytes, an answer a receipt too."""
    for record in undisturbed.rounds:
        assert 0 < record.bytes_up - 3 * 4 * layout.update_size < 3 * 800
        assert 0 < record.bytes_down - 3 * 4 * layout.adapter_size < 3 * 200


@pytest.mark.statistics
def test_the_task_is_learned(tiny_folder: Path, tmp_path: Path) -> None:
    """Without noise the tiny model tells the labels apart far better than the majority does."""
    training = {"rounds": 25, "local_steps": 4, "batch_size": 32, "learning_rate": 4.0}
    # Keyed, so that the batches are the same each time: the outcome of so small a job varies.
    job = tiny.job(tiny_folder, training=training, privacy={"mechanism": "none"}, seeds={"noise": 1})
    run = simulate(job, runs=tmp_path)
    majority = RunFolder.open(run.folder).facts["majority"]
    assert run.measures["accuracy"] > majority + 0.15
    assert run.rounds[-1].loss < run.rounds[0].loss
    assert run.epsilon == {"site-1": None, "site-2": None, "site-3": None}


def test_keyed_runs_repeat_bit_for_bit_and_fresh_ones_do_not(
    tiny_folder: Path, tmp_path: Path, undisturbed: Run, layout: AdapterLayout
) -> None:
    again = simulate(tiny.job(tiny_folder, **KEYED), runs=tmp_path)
    assert adapter(again, layout) == adapter(undisturbed, layout)
    other = simulate(tiny.job(tiny_folder, seeds={"noise": 6}), runs=tmp_path)
    fresh = [simulate(tiny.job(tiny_folder), runs=tmp_path) for _ in range(2)]
    results = {adapter(run, layout) for run in (undisturbed, other, *fresh)}
    assert len(results) == 4


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("writes", range(8, 48, 4))
def test_a_run_killed_at_any_write_ends_in_the_same_adapter(
    tiny_folder: Path,
    tmp_path: Path,
    undisturbed: Run,
    layout: AdapterLayout,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    """A file is written beside its place, and renamed: before that it is not there. A line is cut off.

    A ledger's head is written in its place, at once or not at all.
    """
    left = [writes]
    whole, whole_line, whole_head = os.rename, run_folder.append_line, ledger_file.overwrite

    def rename(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        whole(source, target)

    def append_line(path: Path, line: bytes, *, flush: bool) -> None:
        left[0] -= 1
        if left[0] < 0:
            with path.open("ab") as lines:
                lines.write(line[: len(line) // 2])
            raise Killed
        whole_line(path, line, flush=flush)

    def overwrite(path: Path, content: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        whole_head(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        patch.setattr(run_folder, "append_line", append_line)
        patch.setattr(ledger_file, "overwrite", overwrite)
        with pytest.raises(Killed):
            simulate(tiny.job(tiny_folder, **KEYED), runs=tmp_path, name="run")
    run = resume(tmp_path / "run")
    assert len(run.rounds) == 3
    assert adapter(run, layout) == adapter(undisturbed, layout)
    assert run.epsilon == undisturbed.epsilon


@pytest.mark.process
def test_a_run_killed_by_signal_goes_on(
    tiny_folder: Path, tmp_path: Path, undisturbed: Run, layout: AdapterLayout
) -> None:
    """A real SIGKILL from outside, as soon as the first round is on disk."""
    job = tmp_path / "job.toml"
    job.write_text(job_toml(tiny.job(tiny_folder, **KEYED)))
    command = [sys.executable, "-m", "confide", "simulate", str(job), "--json"]
    command += ["--runs", str(tmp_path), "--run-name", "run"]
    with children.start(command, stdout=subprocess.PIPE, text=True) as process:
        first = json.loads(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    assert first["round"] == 1
    assert adapter(resume(tmp_path / "run"), layout) == adapter(undisturbed, layout)


def test_an_interrupted_round_with_fresh_noise_is_charged_twice(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noisy update may have left: its steps stay spent, and the run ends a round earlier."""
    write = RunFolder.finish_round

    def finish_round(self: RunFolder, record: Any, layout: Any, adapter: Any) -> None:
        if record.round == 2:
            raise Killed
        write(self, record, layout, adapter)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", finish_round)
        with pytest.raises(Killed):
            simulate(tiny.job(tiny_folder), runs=tmp_path, name="run")
    run = resume(tmp_path / "run")
    assert [record.round for record in run.rounds] == [1, 2]
    assert all(7.5 < spent <= 8.0 for spent in run.epsilon.values())
    assert "the run ends after round 2" in (run.folder / "run.log").read_text()


def test_a_finished_run_resumes_to_itself(undisturbed: Run) -> None:
    assert resume(undisturbed.folder).rounds == undisturbed.rounds


def test_a_run_does_not_go_on_with_another_model(tiny_folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    tiny.table(here)
    simulate(tiny.job(here, training={"rounds": 1}), runs=tmp_path, name="run")
    weights = here / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["encoder.layer.0.output.dense.bias"][0] += 1e-3
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(JobError, match="another model"):
        resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": {"text": "note"}}, DataError, "no such column"),
        ({"federation": {"sites": 200}}, DataError, "got no examples"),
        ({"training": {"batch_size": 500}}, SiteError, "batch_size=500"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        simulate(tiny.job(tiny_folder, **changes), runs=tmp_path)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_python_call_takes_a_path(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(job_toml(tiny.job(tiny_folder, training={"rounds": 1})))
    run = confide.simulate(path, runs=tmp_path)
    assert isinstance(run, confide.Run)
    assert np.isfinite(run.measures["accuracy"])


@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
def test_both_tasks_run(tiny_folder: Path, tmp_path: Path, task: str) -> None:
    table = tiny.table(tiny_folder) | {"task": task}
    table["training"]["rounds"] = 1
    if task == "causal-lm":
        del table["data"]["label"], table["data"]["labels"]
        table["model"] = {"source": str(write_language_model(tmp_path))}
        table["adapter"]["target_modules"] = ["q_proj"]
    run = simulate(parse_job(table), runs=tmp_path / "runs")
    assert 0 <= run.measures["accuracy"] <= 1


def write_language_model(folder: Path) -> Path:
    """A two-layer Llama with the tiny tokenizer, the same each time."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny.write_model(folder / "bert"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    return folder / "llama"
