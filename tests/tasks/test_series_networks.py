"""Networks for series that a job chooses: gradients an entity, what is missing, public lengths, exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.training.gradients import HookedGradients, losses
from client.training.stacked_gradients import StackedGradients
from privacy.errors import JobError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.registry import checked_job
from tests.client.training.test_per_example_gradients import RELATIVE, furthest
from tests.models import random_adapter
from tests.tasks.exported import exported_network
from tests.tasks.networks import SERIES, job_table, write_series
from tests.tasks.own_gradients import check_own_gradients
from tests.tasks.test_series_forecast import FORECAST

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}
KEYS = {"series-classification": SERIES, "series-forecast": FORECAST | {"windows": 2}}
NETWORKS = ("lstm", "patches")
LONG = 1000  # moments


def make_job(folder: Path, *, task: str = "series-classification", keys: Any, **changes: Any) -> Job:
    table = write_series(folder / "data.csv")
    return checked_job(parse_job(job_table(task, table, KEYS[task] | keys, **changes)))


def adapt(job: Job) -> AdaptedModel:
    labels = tuple((job.data.model_extra or {}).get("labels", ()))
    return AdaptedModel(load_base_model(job, labels=labels, device=CPU), job=job, device=CPU)


def ready(job: Job) -> AdaptedModel:
    """The job's network with weights of which none is zero by construction."""
    adapted = adapt(job)
    adapted.load(adapted.some_adapter(0))
    adapted.peft.eval()
    return adapted


def some_series(*, length: int, rows: int = 3) -> torch.Tensor:
    """Two channels that are there at all moments, float32[rows, 4, length]."""
    numbers = np.random.default_rng(0).uniform(-1, 1, (rows, 2, length)).astype("float32")
    return torch.from_numpy(np.concatenate([numbers, np.ones_like(numbers)], axis=1))


@pytest.mark.parametrize("task", KEYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_entitys_gradient_is_its_own(task: str, network: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, task=task, keys={"network": network})
    compared = check_own_gradients(lambda: adapt(job))
    assert isinstance(compared.method, StackedGradients)


@pytest.mark.parametrize("network", NETWORKS)
def test_by_hooks_too_what_a_layer_does_at_each_moment_is_one_gradient(
    network: str, tmp_path: Path
) -> None:
    job = make_job(tmp_path, keys={"network": network})
    method, reference = HookedGradients(adapt(job)), adapt(job)
    for one in (method.adapted, reference):
        one.load(random_adapter(one))
    examples = reference.probe()
    method.adapted.peft.train()
    found = method.backward(examples.batch(np.arange(len(examples))), losses(method.adapted))
    assert furthest(found, reference, examples) < RELATIVE


@pytest.mark.parametrize("task", KEYS)
def test_which_network_it_is_decides_the_digest_and_none_is_convolutions(task: str, tmp_path: Path) -> None:
    asked = [{}, *({"network": name} for name in ("convolutions", *NETWORKS))]
    digests = [adapt(make_job(tmp_path, task=task, keys=keys)).model_digest for keys in asked]
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == len(asked) - 1


@pytest.mark.parametrize("task", KEYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_it_begins_with_one_answer_and_all_of_it_is_trained(
    task: str, network: str, tmp_path: Path
) -> None:
    adapted = adapt(make_job(tmp_path, task=task, keys={"network": network}))
    whole = sum(p.numel() for p in adapted.base.model.parameters()) // 2  # PEFT's two copies
    assert adapted.layout.trained_size == whole
    adapted.load(adapted.initial_adapter(0))
    values = some_series(length=12 if task == "series-classification" else 6)
    found = adapted.peft(values)
    known = adapted.peft.get_base_model()
    # The last number that is known, and no difference from it; or no label more than another.
    start = known.in_unit(values[:, :1, -1:]) if task == "series-forecast" else torch.zeros(1)
    torch.testing.assert_close(found, start.expand_as(found))


@pytest.mark.parametrize("network", NETWORKS)
def test_moments_at_which_nothing_is_there_do_not_matter(network: str, tmp_path: Path) -> None:
    model = ready(make_job(tmp_path, keys={"network": network})).peft
    values = some_series(length=12)
    values[:, 2:, :4] = 0
    logits = model(values)
    values[:, :2, :4] = 5.0
    torch.testing.assert_close(model(values), logits)
    values[:, 2:, :4] = 1
    assert not torch.allclose(model(values), logits, atol=1e-3)


@pytest.mark.parametrize("task", KEYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_series_without_any_moment_is_computed_and_has_gradients(
    task: str, network: str, tmp_path: Path
) -> None:
    adapted = ready(make_job(tmp_path, task=task, keys={"network": network}))
    found = adapted.peft(0 * some_series(length=12 if task == "series-classification" else 6))
    assert found.isfinite().all()
    found.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in adapted.trained.values())


def test_moments_between_that_are_missing_leave_an_lstm_as_it_was(tmp_path: Path) -> None:
    values = some_series(length=12)
    spread = torch.zeros(3, 4, 24)
    spread[:, :, ::2] = values
    short, long = (
        ready(make_job(tmp_path, keys={"network": "lstm", "length": length})) for length in (12, 24)
    )
    torch.testing.assert_close(long.peft(spread), short.peft(values))


def test_a_long_series_takes_an_lstm_as_many_steps_as_any(tmp_path: Path) -> None:
    adapted = ready(make_job(tmp_path, keys={"network": "lstm", "length": LONG}))
    taken: list[int] = []
    recurrent = adapted.peft.get_base_model().body.recurrent
    recurrent.register_forward_hook(lambda _module, given, _made: taken.append(len(given[0])))
    values = some_series(length=LONG)
    found = adapted.peft(values)
    assert taken == [3] * 63  # of 16 moments each
    # The last parts are seen, and in order.
    values[:, 0, -20:] *= -1
    assert not torch.allclose(adapted.peft(values), found, atol=1e-3)


@pytest.mark.parametrize(
    ("length", "patch", "count"), [(12, 4, 3), (13, 4, 4), (100, 7, 15), (256, 16, 16), (LONG, 16, 16)]
)
def test_a_series_has_at_most_so_many_patches(length: int, patch: int, count: int, tmp_path: Path) -> None:
    adapted = ready(make_job(tmp_path, keys={"network": "patches", "length": length}))
    model = adapted.peft.get_base_model()
    embedded: list[torch.Size] = []
    model.body.embedding.register_forward_hook(
        lambda _module, given, _made: embedded.append(given[0].shape)
    )
    values = some_series(length=length)
    found = adapted.peft(values)
    assert embedded == [(3, 2, count, 2 * patch)]
    turned = adapted.peft(torch.cat([values[:, :, length // 2 :], values[:, :, : length // 2]], dim=2))
    assert not torch.allclose(turned, found, atol=1e-3)  # it knows when something was


def test_no_channel_sees_another_before_the_last_layer(tmp_path: Path) -> None:
    body = ready(make_job(tmp_path, keys={"network": "patches"})).peft.get_base_model().body
    values = some_series(length=12)
    found = body(values).reshape(3, 2, -1)
    values[:, 1] *= -1
    changed = body(values).reshape(3, 2, -1)
    torch.testing.assert_close(changed[:, 0], found[:, 0])
    assert not torch.allclose(changed[:, 1], found[:, 1], atol=1e-3)


@pytest.mark.parametrize("task", KEYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_export_says_the_same_with_torch_alone(task: str, network: str, tmp_path: Path) -> None:
    training = {
        "rounds": 4,
        "local_steps": 5,
        "batch_size": 16,
        "physical_batch_size": 16,
        "learning_rate": 1.0 if task == "series-classification" else 0.1,
    }
    job = make_job(tmp_path, task=task, keys={"network": network}, training=training, **NOT_PRIVATE)
    run = simulate(job, runs=tmp_path / "runs")
    if task == "series-classification":
        assert run.measures["accuracy"] > 0.9
    else:
        assert run.measures["relative_error"] < 0.9
    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    adapted = adapt(job)
    adapted.load(folder.load_adapter(4, adapted.layout))
    adapted.peft.eval()
    values = some_series(length=12 if task == "series-classification" else 6)
    torch.testing.assert_close(exported_network(tmp_path / "merged")(values), adapted.peft(values))


@pytest.mark.parametrize("task", KEYS)
def test_a_network_of_another_name_is_refused(task: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"data\.network.*'convolutions'"):
        make_job(tmp_path, task=task, keys={"network": "gru"})


@pytest.mark.parametrize("task", KEYS)
def test_patches_of_too_many_channels_are_refused(task: str, tmp_path: Path) -> None:
    channels = KEYS[task]["channels"] | {f"c{number}": [0, 1] for number in range(63)}
    with pytest.raises(JobError, match=r"network: expected at most 64 channels with \"patches\", got 65"):
        make_job(tmp_path, task=task, keys={"network": "patches", "channels": channels})


@pytest.mark.parametrize("network", NETWORKS)
def test_a_part_is_the_mean_of_the_moments_that_are_there(network: str, tmp_path: Path) -> None:
    """Missing ones are zeros: a mean over all would be nearer to zero, the more are missing."""
    body = ready(make_job(tmp_path, keys={"network": network, "length": LONG})).peft.get_base_model().body
    values = torch.full((1, 4, LONG), 0.8)
    values[:, 2:] = 1.0
    seen: list[torch.Tensor] = []
    first = body.given if network == "lstm" else body.embedding
    first.register_forward_hook(lambda _module, given, _made: seen.append(given[0].flatten()))
    body(values)
    values[:, :, 1::2] = 0.0
    body(values)
    whole, half = ((one - 0.8).abs() < 1e-5 for one in seen)
    assert whole.any()
    assert torch.equal(whole, half)
    assert (seen[1] == 0.5).any()  # how many of a part are there


def test_anomalies_have_no_network_to_choose(tmp_path: Path) -> None:
    table = job_table("series-anomaly", tmp_path / "x.csv", SERIES | {"network": "lstm"})
    with pytest.raises(JobError, match=r"data\.network"):
        checked_job(parse_job(table))
