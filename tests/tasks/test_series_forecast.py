"""Forecasts: windows know nothing of what follows them, losses by hand, a gradient an entity, an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from privacy.errors import DataError, JobError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.data.rows import Rows
from tasks.data.series_columns import SeriesColumns
from tasks.data.series_windows import SeriesWindows
from tasks.forecast_outcome import COVERAGE, MEAN_ERROR, RELATIVE_ERROR, WITHIN, ForecastOutcome
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.registry import checked_job
from tasks.series_forecast import TASK
from tests.tasks.exported import exported_network
from tests.tasks.networks import SERIES, job_table, write_series
from tests.tasks.own_gradients import check_own_gradients

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}
COLUMNS = {
    "entity": "machine",
    "time": "when",
    "channels": {"x": [-4.0, 4.0], "y": [-4.0, 4.0]},
    "target": "x",
}
FORECAST = COLUMNS | {"context": 6, "horizon": 3}


def make_job(folder: Path, *, keys: dict[str, Any] | None = None, **changes: Any) -> Job:
    table = write_series(folder / "data.csv")
    return checked_job(parse_job(job_table("series-forecast", table, FORECAST | (keys or {}), **changes)))


def adapt(job: Job) -> AdaptedModel:
    return AdaptedModel(load_base_model(job, labels=(), device=CPU), job=job, device=CPU)


def read(path: Path, rows: list[str], **keys: Any) -> DataSet:
    path.write_text("\n".join(["machine,when,x,y", *rows]) + "\n")
    return read_data_set("data", DataSource(source=str(path), task="series-forecast", **COLUMNS | keys))


def windows(*, context: int, horizon: int, count: int = 1) -> SeriesWindows:
    columns = SeriesColumns(channels={"x": (-4.0, 4.0), "y": (-4.0, 4.0)}, length=context + horizon)
    return SeriesWindows(series=columns, target="x", context=context, horizon=horizon, windows=count)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"target": "z"}, "target: expected one of the channels, got 'z'"),
        ({"quantiles": [0.1, 0.9]}, "quantiles: expected them to rise, and 0.5 among them"),
        ({"quantiles": [0.5, 0.1]}, "quantiles: expected them to rise, and 0.5 among them"),
        ({"quantiles": [0.5, 1.0]}, "data.quantiles"),
        ({"context": 60_000}, "context: expected at most 100000 numbers a series"),
        ({"channels": {"x": [4, -4]}}, "channels.x: expected a lower end"),
        ({"time": "machine"}, "machine: expected a column to be one of"),
        ({"label": "kind"}, "data.label"),
    ],
)
def test_wrong_keys_are_named(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as told:
        checked_job(parse_job(job_table("series-forecast", tmp_path / "x.csv", FORECAST | keys)))
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"federation": {"partition": {"column": "machine"}}}, 'federation.partition: expected "iid"'),
        ({"federation": {"partition": {"dirichlet": 0.5}}}, 'federation.partition: expected "iid"'),
        ({"model": {"source": "org/name"}}, 'model.source: expected "drawn"'),
        ({"strategy": {"name": "fedsb"}}, "strategy: expected one that averages all that is trained"),
    ],
)
def test_a_job_that_does_not_fit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as told:
        checked_job(parse_job(job_table("series-forecast", tmp_path / "x.csv", FORECAST, **changes)))
    assert words in str(told.value)


def test_windows_are_a_series_last_ones_in_order_of_time_with_gaps_as_they_are(tmp_path: Path) -> None:
    rows = ["a,50,4,1", "a,1,-4,nan", "a,3,0,-2", "a,4,nan,4", "a,9,9,0", ",3,1,1"]
    data = read(tmp_path / "a.csv", rows)
    found = windows(context=2, horizon=1, count=2).encode(data.rows.contents)
    # In order of time x is -4, 0, none, 9, 4 and y none, -2, 4, 0, 1; 9 is cut off at 4.
    assert found["values"].tolist() == [
        [[0, 1], [1, 0], [0, 1], [1, 1]],
        [[0, 0], [-0.5, 1], [1, 0], [1, 1]],
    ]
    assert found["next"].tolist() == [[1], [1]]
    assert found["told"].tolist() == [[1], [1]]
    assert data.rows.remarks == ("1 rows have no entity or no time, and are left out",)


def test_what_follows_a_window_changes_nothing_in_it(tmp_path: Path) -> None:
    rows = [f"a,{n},{n % 3},{n % 2}" for n in range(12)]
    changed = [*rows[:-3], "a,9,3,3", "a,10,3,3", "a,11,3,3"]
    reader = windows(context=6, horizon=3)
    one, other = (
        reader.encode(read(tmp_path / f"{n}.csv", some).rows.contents)
        for n, some in enumerate((rows, changed))
    )
    assert np.array_equal(one["values"], other["values"])
    assert not np.array_equal(one["next"], other["next"])


def test_a_series_of_which_nothing_can_be_told_is_blank(tmp_path: Path) -> None:
    rows = [
        "a,1,1,1",
        "a,2,2,2",
        "short,1,1,1",
        "none,1,nan,1",
        "none,2,1,1",
        "lost,noon,1,1",
        "last,1,1,1",
    ]
    data = read(tmp_path / "a.csv", [*rows, "last,2,inf,1"])
    found = data.task.encode(windows(context=2, horizon=1), data.rows, labels=())
    assert found.blank == {
        "no content, or none that can be read": (3,),
        "no number to forecast, or none before it": (1, 2, 4),
    }
    assert found.examples.sizes.tolist() == [1, 0, 0, 0, 0]


def test_no_rows_are_no_examples() -> None:
    found = TASK.encode(windows(context=2, horizon=1, count=2), Rows(contents=()), labels=())
    assert (len(found.examples), found.blank) == (0, {})


def test_a_channel_that_a_sites_data_are_read_without_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    keys = COLUMNS | {"channels": {"x": [-4.0, 4.0]}}
    data = read_data_set("d", DataSource(source=str(tmp_path / "data.csv"), task="series-forecast", **keys))
    with pytest.raises(DataError, match="'y', which these data are read without"):
        data.examples(adapt(job), labels=())


def test_a_series_has_one_budget_with_a_label_or_without(tmp_path: Path) -> None:
    path = write_series(tmp_path / "data.csv")
    labelled = {key: value for key, value in SERIES.items() if key != "length"}
    one = read_data_set("d", DataSource(source=str(path), task="series-forecast", **COLUMNS))
    other = read_data_set("d", DataSource(source=str(path), task="series-classification", **labelled))
    assert one.digests == other.digests


def test_errors_are_those_of_the_papers() -> None:
    right, there = torch.tensor([[2.0, 4.0, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    last = torch.full((1, 3), 1.0)
    told = torch.tensor([[[1.0], [3.5], [0.0]]])
    squared = ForecastOutcome.of(told, right, there, last=last, width=8.0, quantiles=())
    assert squared.losses.tolist() == [pytest.approx((0.25**2 + 0.125**2) / 2 / 2)]
    sums = squared.sums()
    # Errors are 1 and 1/2; the last number is off by 1 and 3; a tenth of the range is 0.8.
    assert MEAN_ERROR.of(sums) == 0.75
    assert RELATIVE_ERROR.of(sums) == 1.5 / 4
    assert WITHIN.of(sums) == 0.5
    assert COVERAGE.of(sums) == 0.0

    told = torch.tensor([[[0.0, 1.0, 3.0], [0.0, 3.5, 3.6], [0.0, 0.0, 0.0]]])
    pinball = ForecastOutcome.of(told, right, there, last=last, width=8.0, quantiles=(0.1, 0.5, 0.9))
    first = (0.1 * 0.5 + 0.5 * 0.25 + 0.1 * 0.25) / 3  # errors of 2, 1 and -1 in halves of the range, 4
    second = (0.1 * 1.0 + 0.5 * 0.125 + 0.9 * 0.1) / 3
    assert pinball.losses.tolist() == [pytest.approx((first + second) / 2)]
    assert MEAN_ERROR.of(pinball.sums()) == 0.75
    assert COVERAGE.of(pinball.sums()) == 0.5
    assert RELATIVE_ERROR.of({"off": 1.0, "off_naive": 0.0}) == 1.0


@pytest.mark.parametrize("keys", [{}, {"windows": 2, "quantiles": [0.1, 0.5, 0.9]}])
def test_an_entitys_gradient_is_its_own(keys: dict[str, Any], tmp_path: Path) -> None:
    compared = check_own_gradients(lambda: adapt(make_job(tmp_path, keys=keys)))
    assert compared.method.batched


def test_it_begins_as_the_naive_forecast(tmp_path: Path) -> None:
    job = make_job(tmp_path, keys={"windows": 2})
    adapted = adapt(job)
    adapted.load(adapted.initial_adapter(0))
    path = tmp_path / "data.csv"
    data = read_data_set("data", DataSource(source=str(path), task="series-forecast", **COLUMNS))
    examples = data.examples(adapted, labels=())
    sums = adapted.forward(examples.batch(np.arange(len(examples)))).sums()
    assert RELATIVE_ERROR.of(sums) == pytest.approx(1.0, rel=1e-5)
    assert sums["counted"] == 60 * 2 * 3  # no series is so short that a window has nothing before it


def test_without_noise_it_beats_the_naive_forecast_and_its_export_says_the_same(tmp_path: Path) -> None:
    training = {
        "rounds": 4,
        "local_steps": 5,
        "batch_size": 16,
        "physical_batch_size": 16,
        "learning_rate": 0.3,
        "decay": "linear",
    }
    job = make_job(tmp_path, keys={"quantiles": [0.1, 0.5, 0.9]}, training=training, **NOT_PRIVATE)
    run = simulate(job, runs=tmp_path / "runs")
    assert run.measures["relative_error"] < 0.85
    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    adapted = adapt(job)
    adapted.load(folder.load_adapter(4, adapted.layout))
    adapted.peft.eval()
    values = torch.from_numpy(adapted.probe().rows.arrays["values"])
    found = exported_network(tmp_path / "merged")(values)
    assert found.shape == (3, 3, 3)
    torch.testing.assert_close(found, adapted.peft(values))
    told = json.loads((tmp_path / "merged" / "network.json").read_text())
    assert told["made_of"]["levels"] == ["0.1", "0.5", "0.9"]
