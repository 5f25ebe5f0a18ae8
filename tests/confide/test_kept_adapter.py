"""What a site has kept of a run is an adapter that stock PEFT loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.custody.home import Home
from client.local_round import ADAPTER
from confide.kept_adapter import export_own
from privacy.errors import UserError
from runs.run_folder import RunFolder
from simulation.booked_homes import memory_in
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.confide.test_cli import call

TEXT = "good day late train"
KEEPS: dict[str, Any] = {"strategy": {"name": "fedsa"}, "training": {"rounds": 1}}


def tokens(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "model")(TEXT, return_tensors="pt")


@pytest.mark.parametrize("metrics", [0.0, 1.0])
def test_a_sites_own_adapter_loads_with_stock_peft(
    tiny_folder: Path, tmp_path: Path, metrics: float, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification

    job = tiny.job(tiny_folder, **KEEPS, metrics={"epsilon": metrics})
    run = simulate(job, runs=tmp_path)
    folder = RunFolder.open(run.folder)
    memory = memory_in(folder.path / "sites", "site-2", folder.manifest)
    adapted = World(job).adapted
    own = memory.newest()[ADAPTER]
    last = folder.load_adapter(1, adapted.layout)
    # With metrics the site was sent the last adapter; else it has what the round began with.
    sent = adapted.layout.change(last, own)
    assert sent.any() == (metrics == 0.0)
    assert not np.array_equal(adapted.layout.local_part(own), adapted.layout.local_part(last))

    export_own(folder.manifest, memory, tmp_path / "own")
    assert "Wrote this site's adapter" in capsys.readouterr().out
    base = AutoModelForTokenClassification.from_pretrained(tiny_folder / "model", num_labels=2)
    adapted.load(own)
    with torch.no_grad():
        expected = adapted.peft.eval()(**tokens(tiny_folder)).logits
        found = PeftModel.from_pretrained(base, tmp_path / "own").eval()(**tokens(tiny_folder)).logits
    # The same float32 operations in the same order, but for the attention's implementation.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "flora", "keep_local": "head"}, "aggregation": {"kind": "none"}},
        {"strategy": {"name": "fedsb", "keep_local": "head"}},
        {"strategy": {"name": "ffa", "keep_local": "head"}, "adapter": {"init": "pissa"}},
    ],
    ids=["a residual", "a core", "a start in the weight"],
)
def test_what_peft_has_in_another_form_loads_too(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification

    job = tiny.job(tiny_folder, **changes, training={"rounds": 1}, metrics={"epsilon": 1.0})
    folder = RunFolder.open(simulate(job, runs=tmp_path).folder)
    memory = memory_in(folder.path / "sites", "site-2", folder.manifest)
    adapted = World(job).adapted
    export_own(folder.manifest, memory, tmp_path / "own")
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    base = AutoModelForTokenClassification.from_pretrained(tiny_folder / "model", num_labels=2)
    adapted.load(memory.newest()[ADAPTER])
    with torch.no_grad():
        expected = adapted.peft.eval()(**tokens(tiny_folder)).logits
        found = PeftModel.from_pretrained(base, tmp_path / "own").eval()(**tokens(tiny_folder)).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # as above


def test_where_nothing_is_kept_it_is_said(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(tiny.job(tiny_folder, training={"rounds": 1}), runs=tmp_path)
    folder = RunFolder.open(run.folder)
    with pytest.raises(UserError, match="has kept no adapter of run"):
        export_own(
            folder.manifest, memory_in(folder.path / "sites", "site-1", folder.manifest), tmp_path / "own"
        )
    assert not (tmp_path / "own").exists()


def test_a_custodian_names_a_run_that_was_joined(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(tiny.job(tiny_folder, training={"rounds": 1}), runs=tmp_path, name="run")
    home = Home(run.folder / "sites" / "site-1")
    assert home.joined("run") == RunFolder.open(run.folder).manifest
    with pytest.raises(UserError, match=r"expected one manifest of run other .*it joined run"):
        home.joined("other")


def test_a_site_that_no_run_had_is_named(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = simulate(tiny.job(tiny_folder, **KEEPS), runs=tmp_path)
    assert call(monkeypatch, "export", run.folder, "--site", "site-9", "--to", tmp_path / "own") == 2
    said = "--site: expected a site that trained in the run, such as 'site-1', "
    assert said in capsys.readouterr().err
