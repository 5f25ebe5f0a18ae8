"""What is exported loads with stock PEFT and transformers, and computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from privacy.errors import UserError
from runs.export import export_adapter, export_merged
from runs.run import Run
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny

TEXT = "good day late train"


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(tiny.job(tiny_folder), runs=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def expected(run: Run) -> torch.Tensor:
    """The logits of the trained model as the run itself holds it."""
    folder = RunFolder.open(run.folder)
    adapted = World(folder.manifest.job).adapted
    adapted.load(folder.load_adapter(3, adapted.layout))
    adapted.peft.eval()
    with torch.no_grad():
        return adapted.peft(**adapted.base.reader.tokenizer(TEXT, return_tensors="pt")).logits


def logits(model: torch.nn.Module, folder: Path) -> torch.Tensor:
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**tokens).logits


def test_an_adapter_loads_with_stock_peft(
    run: Run, expected: torch.Tensor, tiny_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification

    export_adapter(RunFolder.open(run.folder), tmp_path / "adapter")
    base = AutoModelForTokenClassification.from_pretrained(tiny_folder / "model", num_labels=2)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    # The same float32 operations in the same order, but for the attention's implementation.
    torch.testing.assert_close(logits(model, tiny_folder / "model"), expected, atol=1e-5, rtol=1e-5)


def test_a_merged_model_loads_with_stock_transformers(
    run: Run, expected: torch.Tensor, tmp_path: Path
) -> None:
    from transformers import AutoModelForTokenClassification

    export_merged(RunFolder.open(run.folder), tmp_path / "merged")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(model, tmp_path / "merged"), expected, atol=1e-5, rtol=1e-5)
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_the_adapter_changes_the_model(run: Run, expected: torch.Tensor) -> None:
    world = World(RunFolder.open(run.folder).manifest.job)
    world.adapted.load(world.initial_adapter)
    world.adapted.peft.eval()
    with torch.no_grad():
        before = world.adapted.peft(**world.adapted.base.reader.tokenizer(TEXT, return_tensors="pt")).logits
    assert not torch.allclose(before, expected, atol=1e-3)


def test_an_existing_folder_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for export in (export_adapter, export_merged):
        with pytest.raises(UserError, match="exists already"):
            export(RunFolder.open(run.folder), tmp_path / "taken")
    assert list((tmp_path / "taken").iterdir()) == []
