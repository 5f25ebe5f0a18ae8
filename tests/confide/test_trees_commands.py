"""Commands on jobs whose rows have leaves in public trees: statistics, and a site's own adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.local_round import ADAPTER
from privacy.identity import Identity
from protocol.job.job_file import job_toml
from runs.run_folder import RunFolder
from simulation.booked_homes import memory_in
from simulation.simulate import simulate
from tests.client.agents import write_site
from tests.confide.test_cli import call
from tests.tasks.data.tree_texts import ONE_LEAF, TREE, write_trees
from tests.tasks.networks import TABULAR
from tests.tasks.test_tabular_trees import adapt, make_job

ASKED = {
    "epsilon": 50.0,
    "labels": True,
    "numbers": {"weight": {"range": [-2.0, 2.0], "bins": 4}},
    "categories": ["home"],
}
PERSONAL = {"rounds": 1, "local_steps": 1, "batch_size": 8, "physical_batch_size": 8, "personal_steps": 2}


def test_statistics_ask_of_the_columns_and_read_no_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, statistics=ASKED)
    (tmp_path / "job.toml").write_text(job_toml(job))
    (tmp_path / "model.txt").unlink()
    assert call(monkeypatch, "stats", tmp_path / "job.toml", "--json", "--runs", tmp_path / "runs") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["labels"].keys() == {"low", "high"}
    assert found["numbers"].keys() == {"weight"}
    assert found["categories"].keys() == {"home"}


def test_a_sites_own_adapter_is_written_with_its_trees_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, training=PERSONAL, metrics={"epsilon": 1.0}, aggregation={"kind": "none"})
    folder = RunFolder.open(simulate(job, runs=tmp_path / "runs", name="run").folder)
    own = memory_in(folder.path / "sites", "site-1", folder.manifest).newest()[ADAPTER]
    expected = adapt(job).layout.split(own)
    trees = tmp_path / "model.txt"
    there = trees.rename(tmp_path / "there.txt")

    # Whoever simulated has the run's copy, and a site the file that its custodian names.
    assert call(monkeypatch, "export", folder.path, "--site", "site-1", "--to", tmp_path / "theirs") == 0
    home = folder.path / "sites" / "site-1"
    write_site(
        home,
        tmp_path,
        Identity.generate(),
        models={str(trees): str(there)},
        data={"data": {"task": "tabular", "source": job.data.source, **TABULAR}},
    )
    words = ("site", "adapter", "run", "--home", home, "--to")
    assert call(monkeypatch, *words, tmp_path / "own") == 0
    for place in ("theirs", "own"):
        found = load_file(tmp_path / place / "adapter_model.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor)

    write_trees(there, (TREE, ONE_LEAF, TREE | {"threshold": "0.5 -0.26"}))
    capfd.readouterr()
    assert call(monkeypatch, *words, tmp_path / "other") == 2
    assert f"data.trees='{there}' is not the model of this run" in capfd.readouterr().err
    assert not (tmp_path / "other").exists()
