"""A head alone, without an adapter: what lies under it is computed once, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from client.training.gradient_check import choose_gradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import JobError
from protocol.job.adapter_section import no_adapter
from protocol.job.job import Job
from runs.export import export_adapter
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from strategies.head import Head
from tasks.model.adapted_model import AdaptedModel
from tasks.model.forward_cut import HeadCut
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import CASES, adapt, bert, make_examples, make_job, random_adapter
from tests.tasks import texts_with_targets as texts
from tests.tasks.model import test_image_base as images
from tests.tasks.model.test_frozen_prefix import LENGTHS, ROUNDING, losses, train

ALONE = {"adapter": {}, "strategy": {"name": "head"}}


def image_job(folder: Path, family: str, **changes: Any) -> Job:
    return images.make_job(folder, family, **ALONE | changes)


def text_job(pooling: str, **changes: Any) -> Job:
    targets = CASES["bert-qv-head"].targets
    job = make_job(targets=targets, task="sequence-classification", pooling=pooling, **changes)
    return job.model_copy(update={"adapter": no_adapter(), "strategy": Head()})


def text_model(pooling: str, **changes: Any) -> AdaptedModel:
    adapted = adapt(bert(layers=3, pooling=pooling), text_job(pooling, **changes))
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    return adapted


@pytest.mark.parametrize("family", images.FAMILIES)
@pytest.mark.exhaustive(but=2)
def test_a_trunk_runs_once_an_image(family: str, tmp_path: Path) -> None:
    job = image_job(tmp_path, family)
    adapted = AdaptedModel(images.load(job), job=job, device=images.CPU)
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    examples = adapted.probe()
    plain = losses(adapted, examples, None)
    kept = Activations(FrozenPrefix(adapted), examples)
    assert kept.work
    first = losses(adapted, examples, kept)

    passes: list[object] = []
    trunk = adapted.peft.get_base_model().base_model
    trunk.register_forward_hook(lambda *_: passes.append(1))
    again = losses(adapted, examples, kept, size=2)

    np.testing.assert_allclose(first, plain, rtol=ROUNDING)
    np.testing.assert_allclose(again, plain, rtol=ROUNDING)
    assert not passes
    assert np.ptp(plain) > 0
    losses(adapted, examples, None)
    assert passes  # the hook counts what there is to count


def test_where_features_are_kept_no_pixels_are_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = image_job(tmp_path, "ConvNextV2")
    adapted = AdaptedModel(images.load(job), job=job, device=images.CPU)
    examples = adapted.probe()
    scaled: list[object] = []
    own = adapted.task.scaled
    monkeypatch.setattr(adapted.task, "scaled", lambda *given: scaled.append(1) or own(*given))
    kept = Activations(FrozenPrefix(adapted), examples)
    assert kept.work
    first = losses(adapted, examples, kept)
    assert scaled  # features are made of something
    scaled.clear()
    np.testing.assert_array_equal(losses(adapted, examples, kept), first)
    assert not scaled


def test_the_privacy_unit_is_an_image(tmp_path: Path) -> None:
    job = image_job(tmp_path, "EfficientNet")
    method = choose_gradients(AdaptedModel(images.load(job), job=job, device=images.CPU))
    assert method.batched
    assert {slot.name.split(".")[-2] for slot in method.adapted.layout.slots} == {"classifier"}
    check_privacy_unit(method, method.adapted.probe())


# A head on the pooled first token has no row for each token of a text: there the last layer is run again.
@pytest.mark.parametrize(("pooling", "depth"), [("mean", 3), ("model", 2)])
def test_texts_are_kept_where_they_fit(pooling: str, depth: int) -> None:
    no_noise = {"privacy": {"mechanism": "none"}}
    examples = make_examples(LENGTHS, labelled=True)
    plain = train(text_model(pooling, **no_noise), examples, None)
    adapted = text_model(pooling, **no_noise)
    prefix = FrozenPrefix(adapted)
    kept = Activations(prefix, examples)

    assert kept.work
    assert prefix.depth == depth
    np.testing.assert_allclose(
        losses(adapted, examples, kept), losses(adapted, examples, None), rtol=ROUNDING
    )
    np.testing.assert_allclose(train(adapted, examples, kept), plain, atol=ROUNDING)


@pytest.mark.parametrize("task", texts.KEYS)
def test_texts_with_other_targets_train_their_head_alone(task: str, tmp_path: Path) -> None:
    adapted = texts.adapt(texts.make_job(task, tmp_path, **ALONE))
    check_privacy_unit(choose_gradients(adapted), adapted.probe())
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    kept = Activations(FrozenPrefix(adapted), adapted.probe())
    plain = losses(adapted, adapted.probe(), None)
    assert kept.work
    np.testing.assert_allclose(losses(adapted, adapted.probe(), kept), plain, rtol=ROUNDING)


def test_what_follows_a_head_is_detected() -> None:
    class Doubled(transformers.BertForTokenClassification):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            found = super().forward(*args, **kwargs)
            found.logits = 2 * found.logits
            return found

    model = bert(layers=3, pooling="mean")
    model.__class__ = Doubled
    adapted = adapt(model, text_job("mean"))
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    prefix, examples = FrozenPrefix(adapted), make_examples(LENGTHS, labelled=True)
    kept = Activations(prefix, examples)

    assert kept.work
    assert prefix.depth == 2  # not under the head: the last layer is run again
    np.testing.assert_allclose(
        losses(adapted, examples, kept), losses(adapted, examples, None), rtol=ROUNDING
    )


def test_a_model_is_whole_again_after_a_pass_that_failed() -> None:
    adapted = text_model("mean")
    model = adapted.peft.get_base_model()
    cut = HeadCut(model, "classifier", depth=3)
    before = "forward" in vars(model)
    with pytest.raises(ZeroDivisionError), cut.above(torch.zeros(1, 1, 16)):
        _ = 1 / 0
    assert ("forward" in vars(model)) == before


def test_a_head_is_exported_as_stock_peft_loads_it(tmp_path: Path) -> None:
    job = image_job(tmp_path, "EfficientNet")
    run = simulate(job, runs=tmp_path / "runs")
    folder = RunFolder.open(run.folder)
    export_adapter(folder, tmp_path / "adapter")

    adapted = AdaptedModel(images.load(job), job=job, device=images.CPU)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype("float32"))
    expected = adapted.task.logits(adapted.peft, values)
    assert expected.abs().max() > 0
    loaded = peft.PeftModel.from_pretrained(images.load(job).model, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(values).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"strategy": {"name": "ffa"}}, {"strategy": {"name": "head"}, "adapter": {"rank": 8}}],
)
def test_an_adapter_is_left_out_whole_and_by_a_head_alone(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"adapter\.target_modules: expected names of layers"):
        image_job(tmp_path, "ViT", **changes)
