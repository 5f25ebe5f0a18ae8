"""Features that are centred and scaled by public texts: what they become, and what exports compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privacy.errors import JobError, ModelError
from protocol.job.layout import FEATURE_MEAN, FEATURE_SCALE
from protocol.messages.vector import to_bytes, vector_digest
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from server.public_features import _examples, _features, with_public_features
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tasks.model.feature_scale import FeatureScale
from tests import tiny

HEAD = "base_model.model.classifier"
TEXT = "good day late train"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public") / "texts.txt"
    path.write_text("\n".join(text for text, _, _ in tiny.rows(200, seed=9)))
    return path


def job(folder: Path, public: Path, **changes: Any) -> Any:
    model = {"features": str(public), **changes.pop("model", {})}
    return tiny.job(folder, model=model, **changes)


@pytest.fixture(scope="module")
def run(tiny_folder: Path, public: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    asked = job(tiny_folder, public, training={"rounds": 1})
    return RunFolder.open(simulate(asked, runs=tmp_path_factory.mktemp("runs"), workers=1).folder)


@pytest.fixture(scope="module")
def world(run: RunFolder) -> World:
    return World(run.manifest.job)


def test_public_texts_have_features_around_zero_of_one_width(world: World, public: Path) -> None:
    adapted = world.adapted
    found = adapted.layout.split(world.initial_adapter)
    adapted.load(world.initial_adapter)
    after = _features(adapted, _examples(adapted, str(public)))[HEAD]
    adapted.features.put(adapted.features.at_first)
    before = _features(adapted, _examples(adapted, str(public)))[HEAD]
    np.testing.assert_allclose(found[HEAD + FEATURE_MEAN], before.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(after.mean(axis=0), 0.0, atol=1e-5)
    widths = after.std(axis=0)
    np.testing.assert_allclose(widths, widths.mean(), rtol=1e-4)
    # They are as long around their mean as they were.
    assert np.sum(after.var(axis=0)) == pytest.approx(np.sum(before.var(axis=0)), rel=1e-4)


def test_public_texts_of_which_a_model_makes_no_numbers_are_refused(
    world: World, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "server.public_features._features",
        lambda *_: {HEAD: np.array([[1.0, np.inf], [0.0, 1.0]])},
    )
    with pytest.raises(ModelError, match=r"model\.features=.*: the model makes numbers of it that are not"):
        with_public_features(world.initial_adapter, world.adapted, place=str(public))


def test_means_and_scales_are_never_trained_or_sent(world: World, run: RunFolder) -> None:
    layout = world.adapted.layout
    frozen = [slot for slot in layout.slots if slot.name.endswith((FEATURE_MEAN, FEATURE_SCALE))]
    assert [slot.trained for slot in frozen] == [False, False]
    trained = sum(slot.size for slot in layout.slots if slot.trained)
    assert layout.update_size == trained == layout.adapter_size - 2 * frozen[0].size - 64
    before, after = (layout.split(run.load_adapter(number, layout)) for number in (0, 1))
    assert (before[HEAD + ".weight"] != after[HEAD + ".weight"]).any()
    for slot in frozen:
        np.testing.assert_array_equal(before[slot.name], after[slot.name])


def test_the_report_says_what_is_published(run: RunFolder) -> None:
    (remark,) = run.facts["remarks"]
    assert "which the job says is public: its mean features are in the adapter, without noise" in remark


def test_sites_take_no_other_numbers_in_the_first_round(world: World, run: RunFolder) -> None:
    assert run.manifest.start_digest == vector_digest(to_bytes(world.initial_adapter))


@pytest.fixture(scope="module")
def expected(world: World, run: RunFolder) -> torch.Tensor:
    adapted = world.adapted
    adapted.load(run.load_adapter(1, adapted.layout))
    adapted.peft.eval()
    with torch.no_grad():
        tokens = adapted.base.reader.tokenizer(TEXT, return_tensors="pt")
        found: torch.Tensor = adapted.peft(**tokens).logits
    return found


def logits(model: torch.nn.Module, folder: Path) -> torch.Tensor:
    from transformers import AutoTokenizer

    with torch.no_grad():
        tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")
        found: torch.Tensor = model.eval()(**tokens).logits
    return found


def test_an_exported_adapter_has_them_in_its_head(
    run: RunFolder, expected: torch.Tensor, tiny_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification

    export_adapter(run, tmp_path / "adapter")
    base = AutoModelForTokenClassification.from_pretrained(tiny_folder / "model", num_labels=2)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    # The fold is rounded to float32 once more than what it is compared with.
    torch.testing.assert_close(logits(model, tiny_folder / "model"), expected, atol=1e-5, rtol=1e-4)


def test_a_merged_model_has_them_in_its_head(
    run: RunFolder, expected: torch.Tensor, tmp_path: Path
) -> None:
    from transformers import AutoModelForTokenClassification

    export_merged(run, tmp_path / "merged")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(model, tmp_path / "merged"), expected, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_measured_is_refused(tiny_folder: Path, public: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"model\.features=.* cannot be read"):
        World(job(tiny_folder, tmp_path / "missing.txt"))
    (tmp_path / "few.txt").write_text("good day\n" * 99)
    with pytest.raises(JobError, match="expected 100 public texts or more, one a line, got 99"):
        World(job(tiny_folder, tmp_path / "few.txt"))
    with pytest.raises(JobError, match=r"model\.features: expected public data, got .* job's data"):
        job(tiny_folder, Path(job(tiny_folder, public).data.source))
    with pytest.raises(JobError, match=r"model\.features: expected none with training\.warm_start"):
        job(tiny_folder, public, training={"warm_start": "there"})


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.features: expected none with a model that has no head"):
        FeatureScale(None, head=(), adapter="default", wanted=True)
