"""What is exported loads with stock PEFT and transformers, and computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from privacy.errors import UserError
from protocol.job.job import Job
from protocol.job.layout import RESIDUAL
from protocol.job.strategy import State
from runs.export import export_adapter, export_merged
from runs.run import Run
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.tasks.model.checkpoints import DECODER, DISTILBERT, ENCODER, GPT2, write_checkpoint

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


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("GPT2Model", GPT2 | {"pad_token_id": 0}),
        ("BertModel", ENCODER),
        ("LlamaModel", DECODER),
    ],  # the first keeps [in, out]
    ids=["gpt2", "bert", "llama"],
)
@pytest.mark.exhaustive(but=2)
def test_what_moved_into_the_base_is_in_both_exports(
    kind: str, config: dict[str, Any], tiny_folder: Path, tmp_path: Path
) -> None:
    """Stock PEFT knows of no residual, and a merged model of no adapter."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    source = write_checkpoint(tmp_path / "base", kind, **config)
    world = World(job_on(source, tiny_folder, strategy={"name": "flora"}))
    layout, folder = world.adapted.layout, world.create_folder(tmp_path / "run")
    drawn = 0.2 * np.random.default_rng(0).standard_normal(layout.adapter_size)
    assert any(slot.name.endswith(RESIDUAL) for slot in layout.slots)
    folder.save_state(1, layout, State(adapter=drawn.astype(np.float32)))
    world.adapted.load(folder.newest_adapter(layout))
    expected = tokens_to_logits(world.adapted.peft)
    export_adapter(folder, tmp_path / "adapter")
    export_merged(folder, tmp_path / "merged")
    exported = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not any(name.endswith(RESIDUAL) for name in exported)
    torch.manual_seed(1)
    base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    found = tokens_to_logits(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(tokens_to_logits(merged), expected, atol=1e-5, rtol=1e-5)
    # And it is not what the factors alone compute.
    tensors = layout.split(drawn.astype(np.float32))
    for name in tensors:
        if name.endswith(RESIDUAL):
            tensors[name][:] = 0.0
    world.adapted.load(layout.join(tensors))
    assert (tokens_to_logits(world.adapted.peft) - expected).abs().max() > 0.01


def test_an_existing_folder_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for export in (export_adapter, export_merged):
        with pytest.raises(UserError, match="exists already"):
            export(RunFolder.open(run.folder), tmp_path / "taken")
    assert list((tmp_path / "taken").iterdir()) == []


# Checkpoints that lack something, or that transformers has no classifier for.
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "a layer whose name ends as the head's does": ("DistilBertModel", DISTILBERT),
    "a pooler": ("BertForMaskedLM", ENCODER),
    "the first layer of the head": ("RobertaModel", ENCODER),
}
IDS = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])


def job_on(source: Path, tiny_folder: Path, **changes: Any) -> Job:
    """A short run's job that adapts every linear layer of a checkpoint."""
    return tiny.job(
        tiny_folder,
        model={"source": str(source), "pooling": "model"},
        adapter={"target_modules": ["all-linear"], "layers_to_transform": None},
        training={"rounds": 1, "local_steps": 1, "learning_rate": 30.0},
        privacy={"mechanism": "none"},
        **changes,
    )


def trained_on(
    kind: str, config: dict[str, Any], tiny_folder: Path, place: Path
) -> tuple[Path, RunFolder, torch.Tensor]:
    """A checkpoint, a short run on it, and what the run's own model says of some texts."""
    source = write_checkpoint(place / "base", kind, **config)
    folder = RunFolder.open(simulate(job_on(source, tiny_folder), runs=place / "runs").folder)
    adapted = World(folder.manifest.job).adapted
    adapted.load(folder.newest_adapter(adapted.layout))
    found = tokens_to_logits(adapted.peft)
    assert found.abs().max() > 0.1
    return source, folder, found


def tokens_to_logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_a_checkpoint_lacks_is_in_both_exports(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    """Loaded elsewhere, it would be drawn anew, from another generator's numbers."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    source, folder, expected = trained_on(*CHECKPOINTS[name], tiny_folder, tmp_path)
    assert "drawn from seeds.adapter" in folder.facts["remarks"][0]
    assert "drawn from seeds.adapter" in (folder.path / "report.html").read_text()
    export_adapter(folder, tmp_path / "adapter")
    export_merged(folder, tmp_path / "merged")
    torch.manual_seed(1)
    base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    # The same float32 operations, but for the attention's implementation and, when merged, the adapter's.
    found = tokens_to_logits(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(tokens_to_logits(merged), expected, atol=1e-4, rtol=1e-4)


def test_a_class_that_transformers_lacks_is_loaded_as_the_readme_says(
    tiny_folder: Path, tmp_path: Path
) -> None:
    _, folder, expected = trained_on("GraniteForCausalLM", DECODER, tiny_folder, tmp_path)
    export_merged(folder, tmp_path / "merged")
    code = (tmp_path / "merged" / "README.md").read_text().split("```python\n")[1].partition("```")[0]
    assert "confide" not in code
    names: dict[str, Any] = {"FOLDER": str(tmp_path / "merged"), "__name__": "somewhere_else"}
    exec(code, names)  # noqa: S102 - what the README tells people to run
    torch.testing.assert_close(tokens_to_logits(names["model"]), expected, atol=1e-4, rtol=1e-4)
