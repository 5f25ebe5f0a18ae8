"""A Gaussian on a pretrained trunk: it is NumPy's, the trunk stays, stock transformers says the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
import transformers

from privacy.errors import JobError, ModelError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tasks.data.image_files import ImageShape
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel, load_base_model
from tasks.model.fitted_trunk import size_of_fit
from tasks.model.forward_cut import HeadCut
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.model.gaussian_network import GaussianFit
from tasks.registry import checked_job
from tests.tasks.exported import exported_network
from tests.tasks.model.test_frozen_prefix import ROUNDING
from tests.tasks.model.test_frozen_prefix import losses as losses_of
from tests.tasks.model.test_image_base import CPU, FAMILIES, save_model
from tests.tasks.networks import IMAGES, job_table, write_images
from tests.tasks.own_gradients import check_own_gradients

if TYPE_CHECKING:
    from tasks.data.dense_examples import DenseExamples

FEATURES = 6
ONCE = {"rounds": 1, "local_steps": 1, "batch_size": 20, "physical_batch_size": 8}
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}


def make_job(folder: Path, family: str = "ConvNextV2", **changes: Any) -> Job:
    images = write_images(folder / "images", images=40)
    keys = IMAGES | {"colours": True, "features": FEATURES} | changes.pop("data", {})
    sections: dict[str, Any] = {
        "model": {"source": str(save_model(folder, family))},
        "strategy": {"name": "fedit"},
        "training": ONCE,
    }
    return checked_job(parse_job(job_table("image-anomaly", images, keys, **sections | changes)))


def load(job: Job) -> BaseModel:
    return load_base_model(job, labels=tuple(IMAGES["labels"]), device=CPU)


def adapt(job: Job) -> AdaptedModel:
    return AdaptedModel(load(job), job=job, device=CPU)


def fit_of(adapted: AdaptedModel) -> GaussianFit:
    *_, trained = (module for module in adapted.peft.modules() if isinstance(module, GaussianFit))
    return trained


def _reads(adapted: AdaptedModel, values: torch.Tensor) -> torch.Tensor:
    """What the fit is given."""
    held: list[torch.Tensor] = []
    handle = fit_of(adapted).register_forward_pre_hook(lambda _, args: held.append(args[0]))
    with torch.no_grad():
        adapted.task.logits(adapted.peft, values)
    handle.remove()
    return held[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": {"rank": 2, "target_modules": ["pwconv1"]}}, "adapter: expected no such section"),
        ({"adapter": {"bias": "all"}}, "adapter: expected no such section"),
        ({"strategy": {"name": "head"}}, 'strategy: expected name="fedit" alone'),
        (
            {"strategy": {"name": "fedit", "keep_local": "head"}},
            'strategy: expected name="fedit" alone',
        ),
        ({"training": ONCE | {"warm_start": "exported"}}, "training.warm_start: expected none"),
    ],
)
def test_what_would_train_more_than_sums_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as told:
        make_job(tmp_path, **changes)
    assert words in str(told.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.exhaustive(but=1)
def test_a_trunks_gradient_is_the_examples_own_product_and_it_runs_once_an_image(
    family: str, tmp_path: Path
) -> None:
    job = make_job(tmp_path, family)
    compared = check_own_gradients(lambda: adapt(job))
    adapted, examples = compared.adapted, compared.examples
    assert {slot.name for slot in adapted.layout.slots} == {
        f"base_model.model.{adapted.base.head[0]}.sums.weight"
    }
    assert adapted.layout.update_size == (FEATURES + 1) * (FEATURES + 2) // 2
    assert size_of_fit(adapted.peft.get_base_model()) == FEATURES
    (gradients,) = compared.found.values()
    # Norms are those of x·xᵀ: a quarter for what counts examples, three for where their features point.
    torch.testing.assert_close(gradients.flatten(1).norm(dim=1), torch.ones(len(examples)))

    adapted.peft.eval()
    plain = losses_of(adapted, examples, None)
    prefix = FrozenPrefix(adapted)
    kept = Activations(prefix, examples)
    assert kept.work
    assert isinstance(prefix._cut, HeadCut)
    first = losses_of(adapted, examples, kept)
    passes: list[object] = []
    adapted.peft.get_base_model().base_model.register_forward_hook(lambda *_: passes.append(1))
    again = losses_of(adapted, examples, kept, size=2)
    np.testing.assert_allclose(first, plain, rtol=ROUNDING)
    np.testing.assert_allclose(again, plain, rtol=ROUNDING)
    assert not passes
    assert np.ptp(plain) > 0


def test_a_model_that_makes_more_of_its_last_layer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = transformers.ConvNextV2ForImageClassification
    own = kind.forward

    def halved(self: Any, *args: Any, **options: Any) -> Any:
        found = own(self, *args, **options)
        found.logits = found.logits / 2
        return found

    load(make_job(tmp_path))
    monkeypatch.setattr(kind, "forward", halved)
    with pytest.raises(ModelError, match=r"model\.source: expected a model whose last layer"):
        load(make_job(tmp_path))


def test_the_digest_holds_the_trunk_and_the_directions(tmp_path: Path) -> None:
    first = load(make_job(tmp_path)).digest
    assert load(make_job(tmp_path)).digest == first
    others = [
        make_job(tmp_path, data={"features": 5}),
        make_job(tmp_path, seeds={"adapter": 7}),
        make_job(tmp_path, "ViT"),
    ]
    assert len({first, *(load(job).digest for job in others)}) == 4


def test_the_fit_is_numpys_and_the_export_is_transformers_with_it(tmp_path: Path) -> None:
    job = make_job(tmp_path, training=ONCE | {"batch_size": 16}, **NOT_PRIVATE)  # all that a site has
    run = simulate(job, runs=tmp_path / "runs")
    assert run.measures["auc"] > 0.6  # of two brightnesses, by a trunk that nobody trained
    folder, adapted = RunFolder.open(run.folder), adapt(job)
    adapted.load(folder.load_adapter(1, adapted.layout))
    adapted.peft.eval()
    world = World(job)
    features = []
    for name in world.site_names:
        examples = cast("DenseExamples", world.examples(name))
        values = adapted.task.scaled(torch.from_numpy(examples.arrays["values"]), adapted.base.reader)
        usual = values[torch.from_numpy(~examples.arrays["odd"])]
        features.append(_reads(adapted, usual))
    mean, covariance = (part.numpy() for part in fit_of(adapted).fitted())
    seen = torch.cat(features)[:, 1:].double().numpy()
    np.testing.assert_allclose(mean, seen.mean(0), atol=1e-4)
    np.testing.assert_allclose(covariance, np.cov(seen.T, bias=True), atol=1e-4)
    assert np.diag(covariance).max() > 1e-3  # there is something to be found

    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    images = [ImageShape(size=16, colours=True).scaled(one) for one in pixels]
    values = adapted.task.scaled(torch.from_numpy(np.stack(images)), adapted.base.reader)
    expected = adapted.task.logits(adapted.peft, values)

    export_merged(folder, tmp_path / "merged")
    found = exported_network(tmp_path / "merged")(values).logits
    torch.testing.assert_close(found, expected)
    assert found[:, 1].min() > 0
    assert "The folder's own program loads it" in (tmp_path / "merged" / "README.md").read_text("utf-8")
