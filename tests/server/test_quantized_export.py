"""A model in fewer bits is what stock libraries load, is scored as rounds are, and says what it costs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from confide.quantized_view import export_and_print, held_out_of
from privacy.errors import UserError
from runs.export import export_adapter, merge
from runs.privacy_card import check_card
from runs.quantized.int8_folder import Int8Folder
from runs.quantized.weight_format import weights_error
from runs.quantized_record import RECORD
from runs.run_folder import RunFolder
from server.job_context import Workplace
from server.quantized_export import check_quantizable, export_quantized
from server.whole_models import WholeModels
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny, tiny_chat
from tests.runs.byte_tokens import write_llama
from tests.runs.test_export import logits
from tests.tasks.model.checkpoints import DECODER, GPT2, job_for, load, write_checkpoint

ROUNDS = {"rounds": 1, "local_steps": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


@pytest.fixture(scope="module")
def run(place: Path) -> RunFolder:
    """A classifier's run, whose model and data are its own."""
    job = tiny.job(
        place, training={**ROUNDS, "learning_rate": 30.0}, adapter={"target_modules": ["all-linear"]}
    )
    return RunFolder.open(simulate(job, runs=place / "runs", name="classifier").folder)


def merged_of(folder: RunFolder) -> tuple[World, Any]:
    world = World(folder.manifest.job)
    return world, merge(folder, world.adapted, number=1, averaged=False)


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return found


def test_int8_is_what_stock_transformers_loads_and_what_is_scored(run: RunFolder, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification

    found = export_quantized(
        run, tmp_path / "int8", kind="int8", held_out=World(run.manifest.job).workplace
    )
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "int8", attn_implementation="eager")
    packed = {name for name, p in loaded.named_parameters() if p.dtype == torch.int8}
    world, merged = merged_of(run)
    linear = {f"{name}.weight" for name, layer in merged.named_modules() if isinstance(layer, nn.Linear)}
    assert packed == linear - {"classifier.weight"}
    whole = logits(merged, tmp_path / "int8")
    error = weights_error(merged, loaded)
    # A step is 1 / 127 of a row's largest weight; what is rounded off is spread over half of one.
    assert 0.001 < error.whole < 0.01
    assert error.packed == len(packed)
    scores = WholeModels(world.workplace)
    before = scores.score(merged)
    for name in packed:
        weight, stored = merged.get_parameter(name).detach(), loaded.get_parameter(name)
        steps = weight.abs().amax(dim=1, keepdim=True) / 127
        # Half a step, and what float16 has lost of the weight before.
        assert (stored.data * stored.SCB[:, None] / 127 - weight).abs().le(0.6 * steps).all()
    # Activations are rounded too, to eight bits a token.
    off = (logits(loaded, tmp_path / "int8") - whole).norm() / whole.norm()
    assert 0.001 < off < 0.2
    assert found.scored is not None
    assert (found.scored.examples, found.scored.before) == (len(world.held_out), before)
    assert found.scored.after == scores.score(loaded)
    assert found.scored.before != found.scored.after
    assert found.weights == error


def test_the_float32_model_scores_what_the_round_did(run: RunFolder) -> None:
    world, merged = merged_of(run)
    found, last = WholeModels(world.workplace).score(merged), run.records()[0]
    assert found.loss == pytest.approx(last.loss, rel=1e-4)
    assert found.measures == pytest.approx(last.measures, rel=1e-4)
    assert last.loss != pytest.approx(run.facts["loss_before"], rel=1e-3)


def test_preferences_are_compared_with_the_base_model_as_it_was(tmp_path: Path) -> None:
    """Once the adapter is merged, the model without it can be asked no more."""
    job = tiny_chat.job(tmp_path, "preferences", training={"rounds": 1, "local_steps": 1})
    world = World(job)
    adapter = world.adapted.some_adapter(1)
    expected = world.workplace.evaluator.score(adapter)
    whole = WholeModels(world.workplace)
    world.adapted.load(adapter)
    found = whole.score(world.adapted.peft.merge_and_unload())
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.measures == pytest.approx(dict(expected.measures), rel=1e-4)
    assert abs(found.measures["margin"]) > 1e-3


def test_what_it_costs_is_shown_and_stands_beside_the_model(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_and_print(run, tmp_path / "int8", kind="int8", best=False, average=False, audit=None)
    table, shown = record(tmp_path / "int8"), capsys.readouterr().out
    card, readme = check_card(tmp_path / "int8")[0], (tmp_path / "int8" / "README.md").read_text()
    assert RECORD in card.files
    assert (table["kind"], table["not_scored"]) == ("int8", None)
    held_out = table["held_out"]
    assert held_out["examples"] == run.facts["held_out_examples"]
    assert held_out["measures"]["accuracy"].keys() == {"float32", "quantized"}
    loss = f"{held_out['loss']['float32']:.4f}", f"{held_out['loss']['quantized']:.4f}"
    assert f"| loss | {loss[0]} | {loss[1]} |" in readme
    for text in (*loss, f"{100 * table['weights']['relative_error']:.2f} % of their norm"):
        assert text in shown
        assert text in readme
    assert "from_pretrained" in readme.split("## Loading it")[1]
    assert "bitsandbytes" in readme.split("## Loading it")[1]
    written = (tmp_path / "int8" / "model.safetensors").stat().st_size
    assert table["bytes"]["written"] == written
    assert sorted(path.name for path in (tmp_path / "int8").iterdir() if path.name.startswith(".")) == []


def test_without_the_data_the_weights_error_is_all_that_is_stated(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = write_llama(tmp_path / "model"), tmp_path / "texts.csv"
    data.write_text("text\n" + "\n".join(f"train day {number}" for number in range(60)) + "\n")
    job = tiny.job(
        place,
        task="causal-lm",
        model={"source": str(model), "pooling": "model"},
        adapter={"target_modules": ["all-linear"]},
        data={"source": str(data), "label": None, "labels": None},
        training=ROUNDS,
    )
    folder = RunFolder.open(simulate(job, runs=tmp_path / "runs", name="language").folder)
    given: dict[str, Any] = {"kind": "gguf-q4", "best": False, "average": False, "audit": None}
    export_and_print(folder, tmp_path / "scored", **given)
    assert record(tmp_path / "scored")["held_out"]["examples"] == 12
    data.write_text(data.read_text() + "train day 60\ntrain day 61\ntrain day 62\ntrain day 63\n")
    export_and_print(folder, tmp_path / "other", **given)
    data.unlink()
    capsys.readouterr()
    export_and_print(folder, tmp_path / "gone", **given)
    other, gone = record(tmp_path / "other"), record(tmp_path / "gone")
    assert other["not_scored"] == "the data have 13 held-out examples now, and the run had 12"
    assert "cannot be read here" in gone["not_scored"]
    assert gone["held_out"] is other["held_out"] is None
    assert gone["weights"] == record(tmp_path / "scored")["weights"]
    assert 0.01 < gone["weights"]["relative_error"] < 0.12
    assert "Not scored: the held-out examples cannot be read here" in capsys.readouterr().out
    readme = (tmp_path / "gone" / "README.md").read_text()
    assert "What it scores was not measured: the held-out examples cannot be read here" in readme
    assert "| loss |" not in readme
    assert 'gguf_file="model.gguf"' in readme
    check_card(tmp_path / "gone")


def test_of_a_real_federation_the_coordinators_data_are_held_out(run: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder.open(shutil.copytree(run.path, tmp_path / "run", symlinks=True))
    facts = folder.facts | {"federation": "clinics", "held_out_examples": tiny.ROWS}
    (folder.path / "facts.json").write_text(json.dumps(facts))
    found = held_out_of(RunFolder.open(folder.path))
    assert isinstance(found, Workplace)
    assert len(found.held_out) == tiny.ROWS


def test_an_existing_folder_and_another_base_model_are_refused(
    run: RunFolder, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export_quantized(run, tmp_path / "taken", kind="int8", held_out="none")
    elsewhere = Path(shutil.copytree(place, tmp_path / "elsewhere"))
    tiny.write_model(elsewhere / "model", fillers=1)
    world = World(tiny.job(elsewhere, training=ROUNDS))
    with pytest.raises(UserError, match="is not the model of this run"):
        export_quantized(run, tmp_path / "out", kind="int8", held_out=world.workplace)
    assert not (tmp_path / "out").exists()


def test_jobs_whose_models_cannot_be_packed_are_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tiny.job(tiny_folder, model={"quantization": "int8"})
    with pytest.raises(UserError, match=r"has no whole weights"):
        check_quantizable(packed, "int8")
    with pytest.raises(UserError, match=r"whose models write, got task=\"sequence-classification\""):
        check_quantizable(tiny.job(tiny_folder), "gguf-q4")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install 'confide\[quantized\]'"):
        check_quantizable(tiny.job(tiny_folder), "int8")


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("GPT2LMHeadModel", GPT2, "GPT2ForSequenceClassification has no linear layers of PyTorch's"),
        ("GraniteForCausalLM", DECODER, "transformers has no class for GraniteForSequenceClassification"),
    ],
    ids=["no linear layers", "no class"],
)
def test_models_that_cannot_be_packed_are_refused(
    kind: str, config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "base", kind, **config)
    assert job_for(source).task == "sequence-classification"
    with pytest.raises(UserError, match=words):
        Int8Folder().check_model(load(source))


def test_an_exported_adapter_has_no_record(run: RunFolder, tmp_path: Path) -> None:
    export_adapter(run, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / RECORD).exists()
    assert "off by" not in (tmp_path / "adapter" / "README.md").read_text()
