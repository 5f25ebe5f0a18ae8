"""Anomalies: gradients are statistics, a fit is NumPy's, odd examples add nothing, alarms by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from confide import audit_run
from privacy.errors import JobError, UserError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.anomaly_outcome import RECALL, AnomalyOutcome, alarm_at
from tasks.label_outcome import AUC
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.model.drawn_weights import DrawnWeights
from tasks.model.gaussian_network import GaussianNetwork
from tasks.registry import checked_job
from tests.tasks.exported import exported_network
from tests.tasks.networks import IMAGES, SERIES, job_table, write_images, write_series
from tests.tasks.own_gradients import check_own_gradients

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}
TASKS = {
    "series-anomaly": (SERIES | {"features": 8}, write_series),
    "image-anomaly": (IMAGES | {"features": 8}, write_images),
}
ONCE = {"rounds": 1, "batch_size": 24, "physical_batch_size": 8}


def make_job(task: str, folder: Path, *, keys: dict[str, Any] | None = None, **changes: Any) -> Job:
    own, write = TASKS[task]
    changes = {"strategy": {"name": "fedit"}, "training": ONCE} | changes
    table = job_table(task, write(folder / "data.csv"), own | (keys or {}), **changes)
    return checked_job(parse_job(table))


def adapt(job: Job) -> AdaptedModel:
    base = load_base_model(job, labels=tuple(job.data.model_extra["labels"]), device=CPU)
    return AdaptedModel(base, job=job, device=CPU)


def network(*, inputs: int, features: int) -> GaussianNetwork:
    with DrawnWeights(3):
        return GaussianNetwork(
            channels=1, labels=["usual", "odd"], parts=[inputs], features=features, scale=1.0
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": {"name": "fedsvd"}}, 'strategy: expected name="fedit" alone'),
        (
            {"strategy": {"name": "fedit", "server": {"optimizer": "fedadam"}}},
            'strategy: expected name="fedit" alone',
        ),
        ({"training": ONCE | {"optimizer": "adam"}}, 'training.optimizer: expected "sgd"'),
        ({"training": ONCE | {"proximal": 0.1}}, "training.proximal: expected 0"),
        ({"training": ONCE | {"patience": 2}}, "training.patience: expected none"),
        ({"training": ONCE | {"average": "polyak"}}, 'training.average: expected "none"'),
        ({"compression": {"kind": "random"}}, 'compression.kind: expected "none"'),
        ({"privacy": {"mechanism": "laplace"}}, 'privacy.mechanism: expected "gaussian"'),
        ({"privacy": {"clipping_quantile": 0.5}}, "privacy.clipping_quantile: expected none"),
        ({"privacy": {"clipping_norm": 0.5}}, "privacy.clipping_norm: expected 1"),
        ({"keys": {"labels": None}, **NOT_PRIVATE}, "data.labels: expected the labels"),
        ({"keys": {"features": 65}}, "data.features"),
        ({"model": {"source": "drawn", "head": "checkpoint"}}, "model.head"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_a_job_whose_steps_make_no_mean_of_sums_is_refused(
    task: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as told:
        make_job(task, tmp_path, **changes)
    assert words in str(told.value)


@pytest.mark.parametrize("task", TASKS)
def test_an_examples_gradient_is_its_own_and_no_longer_than_one(task: str, tmp_path: Path) -> None:
    job = make_job(task, tmp_path)
    compared = check_own_gradients(lambda: adapt(job))
    assert compared.method.batched
    (gradients,) = compared.found.values()
    assert 0.25 < gradients.flatten(1).norm(dim=1).max() <= 1 + 1e-6


def test_a_gradient_is_the_examples_own_product_whatever_was_fitted() -> None:
    model = network(inputs=6, features=4)
    values = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(0))
    found = model.seen(values)[0].detach()
    assert found[0] == 0.5
    rows, columns = torch.triu_indices(5, 5)
    expected = torch.outer(found, found) * (2**0.5 - (2**0.5 - 1) * torch.eye(5))
    for scale in (0.0, 3.0):
        torch.nn.init.constant_(model.fit.sums.weight, scale)
        (gradient,) = torch.autograd.grad(model(values)[0, 0], [model.fit.sums.weight])
        torch.testing.assert_close(gradient[0], expected[rows, columns])
        torch.testing.assert_close(gradient.norm(), found.square().sum())


def test_no_example_is_longer_than_one_however_large_its_numbers_are() -> None:
    model = network(inputs=6, features=4)
    values = torch.tensor([1e-3, 1.0, 1e6])[:, None, None] * torch.ones(3, 1, 6)
    lengths = model.seen(values).norm(dim=1)
    assert lengths.max() <= 1 + 1e-6
    assert lengths[0] < lengths[1] < lengths[2]


def test_directions_are_orthonormal_and_all_are_kept_where_there_are_few() -> None:
    drawn = network(inputs=8, features=5).seen.projection
    torch.testing.assert_close(drawn @ drawn.T, torch.eye(5))
    assert torch.equal(network(inputs=4, features=9).seen.projection, torch.eye(4))
    assert torch.equal(drawn, network(inputs=8, features=5).seen.projection)


@pytest.mark.parametrize("rate", [1.0, 0.05])
def test_without_noise_the_fit_is_numpys_whatever_steps_it_took_and_odd_examples_add_nothing(
    rate: float, tmp_path: Path
) -> None:
    # Each step draws all of a site's examples, and none is held out of them.
    other = write_series(tmp_path / "other.csv", entities=8)
    training = {
        "rounds": 3,
        "local_steps": 2,
        "batch_size": 30,
        "physical_batch_size": 8,
        "learning_rate": rate,
        "decay": "linear",
    }
    keys = {"validation": str(other), "holdout": None}
    job = make_job("series-anomaly", tmp_path, keys=keys, training=training, **NOT_PRIVATE)
    run = simulate(job, runs=tmp_path / "runs")
    adapted = adapt(job)
    adapted.load(RunFolder.open(run.folder).load_adapter(3, adapted.layout))
    fitted = adapted.peft.get_base_model()

    own = {key: value for key, value in SERIES.items() if key != "length"}
    data = read_data_set("d", DataSource(source=str(tmp_path / "data.csv"), task="series-anomaly", **own))
    usual = [number for number, label in enumerate(data.rows.labels) if label == "rise"]
    examples = data.examples(adapted, labels=data.labels).take(np.array(usual))
    values = torch.from_numpy(examples.arrays["values"])
    found = fitted.seen(values)[:, 1:].double().numpy()
    mean, covariance = fitted.fit.fitted()
    np.testing.assert_allclose(mean.numpy(), found.mean(0), atol=1e-4)
    np.testing.assert_allclose(covariance.numpy(), np.cov(found.T, bias=True), atol=1e-4)
    assert np.diag(np.cov(found.T)).max() > 1e-3  # there is something to be found


def test_distances_are_mahalanobis_with_variances_no_smaller_than_noise_is() -> None:
    model = network(inputs=3, features=3)
    mean = np.array([0.2, 0.0, -0.1])
    covariance = np.diag([0.09, 0.001, -0.004])  # the last is noise alone: so may the second be
    whole = np.block([[np.eye(1), mean[None]], [mean[:, None], covariance + np.outer(mean, mean)]])
    whole *= 7 * np.outer([0.5, 1, 1, 1], [0.5, 1, 1, 1])  # of seven examples
    rows, columns = np.triu_indices(4)
    weights = whole[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))
    model.fit.sums.weight.data = torch.from_numpy(weights).float()[None]
    found_mean, found = model.fit.fitted()
    np.testing.assert_allclose(found_mean, mean, atol=1e-6)
    np.testing.assert_allclose(found, covariance, atol=1e-6)
    apart = np.array([0.3, 0.1, 0.2])
    seen = torch.from_numpy(np.array([[0.5, *(mean + apart)]])).float()
    expected = apart[0] ** 2 / 0.09 + (apart[1] ** 2 + apart[2] ** 2) / 0.004
    assert float(model.fit.distances(seen)) == pytest.approx(expected, rel=1e-4)


def test_before_anything_is_fitted_distances_are_numbers() -> None:
    model = network(inputs=6, features=4)
    torch.nn.init.zeros_(model.fit.sums.weight)
    assert torch.isfinite(model(torch.randn(3, 1, 6))).all()


def test_alarms_and_recall_are_as_counted_by_hand() -> None:
    assert alarm_at(32) == pytest.approx(scipy.stats.chi2.ppf(0.99, 32), rel=1e-3)
    usual, odd = torch.linspace(1, 20, 200), torch.tensor([0.5, 19.0, 100.0, 200.0])
    distances = torch.cat([usual, odd])
    labels = torch.arange(204) >= 200
    outcome = AnomalyOutcome.of(torch.ones(204), distances, labels, size=4)
    sums = outcome.sums()
    # Two of 200 usual ones may be over the line, which is at 19.8; ties within a hundredth aside.
    assert RECALL.of(sums) == pytest.approx(0.5, abs=0.05)
    assert AUC.of(sums) == pytest.approx((0 + 190 / 200 + 1 + 1) / 4, abs=0.01)
    assert outcome.losses.tolist() == [-1.0] * 200 + [0.0] * 4
    above = int((usual > alarm_at(4)).sum())
    assert int(outcome.correct.sum()) == 200 - above + 3
    nobody_odd = AnomalyOutcome.of(torch.ones(200), usual, labels[:200], size=4).sums()
    assert (RECALL.of(nobody_odd), AUC.of(nobody_odd)) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("task", "changes"), [("series-anomaly", {"privacy": {"delta": 1e-3}}), ("image-anomaly", NOT_PRIVATE)]
)
def test_it_runs_under_masks_tells_odd_ones_and_its_export_says_the_same(
    task: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    job = make_job(task, tmp_path, **changes)
    run = simulate(job, runs=tmp_path / "runs")
    if job.privacy.protects:
        # Of so few series, noise leaves little: that its cost is in the ledger is what matters here.
        assert all(value is not None and value <= 3.0 for value in run.epsilon.values())
        audit_run(run.folder, ledgers=[run.folder / "sites" / "site-1"])
    else:
        assert run.measures["auc"] > 0.85  # who guesses has half

    folder, adapted = RunFolder.open(run.folder), adapt(job)
    with pytest.raises(UserError, match=r"--best: expected the last round with task=.* sums grow"):
        export_merged(folder, tmp_path / "best", best=True)
    adapted.load(folder.load_adapter(1, adapted.layout))
    adapted.peft.eval()
    values = torch.from_numpy(adapted.probe().arrays["values"])
    values = adapted.task.scaled(values, adapted.base.reader)
    export_merged(folder, tmp_path / "merged")
    torch.testing.assert_close(exported_network(tmp_path / "merged")(values), adapted.peft(values))
