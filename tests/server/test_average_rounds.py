"""An average of released adapters is what it says, is kept once, and is exported as what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from privacy.errors import JobError, RunError, UserError
from protocol.job.strategy import State, find_strategy, listed_strategies
from runs.averaged_adapter import average_weights, averaged_path, load_average, read_average
from runs.export import export_adapter
from runs.report.notices import find_notices
from runs.run_folder import RunFolder
from server.average_rounds import keep_average
from server.evaluation import Score
from tests.server.runs import LAYOUT, make_job, make_record, make_run

EXACT = {"ffa", "scaffold", "fedsb", "head", "krum", "multi_krum", "bulyan", "trimmed_mean", "median"}


class Evaluates:
    """An evaluator whose loss is the mean of an adapter's numbers."""

    def __init__(self) -> None:
        self.scored: list[np.ndarray] = []

    def score(self, adapter: np.ndarray) -> Score:
        self.scored.append(adapter)
        return Score(
            loss=float(adapter.mean()), measures={"accuracy": 0.25, "loss": 1.0, "perplexity": 2.0}
        )


def run_of(path: Path, kind: str, adapters: list[float]) -> RunFolder:
    job = make_job(training={"rounds": 9, "average": kind}, strategy={"name": "ffa"})
    folder = make_run(path, job, records=[], exported_beside=[])
    for number, value in enumerate(adapters, start=1):
        state = State(adapter=np.full(4, value, np.float32))
        folder.finish_round(make_record(number), LAYOUT, state)
    return folder


@pytest.mark.parametrize("name", [name for name in listed_strategies() if name not in EXACT])
def test_a_rule_whose_averages_are_not_exact_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=rf'training\.average: expected "none" with strategy\.name="{name}"'):
        make_job(training={"average": "polyak"}, strategy={"name": name}, privacy={"mechanism": "none"})


@pytest.mark.parametrize("name", sorted(EXACT))
def test_products_of_the_mean_are_means_of_products(name: str) -> None:
    strategy = find_strategy(name)()
    assert strategy.averages()
    core = {"a.lora_C.weight": (2, 2)} if strategy.cored else {}
    layout = strategy.lay_out({"a.lora_A.weight": (2, 5), "a.lora_B.weight": (3, 2), **core})
    rng = np.random.default_rng(0)
    start = rng.standard_normal(layout.adapter_size).astype(np.float32)
    update = rng.standard_normal((2, layout.update_size)).astype(np.float32)
    adapters = [layout.apply(start, one) for one in update]

    def product(adapter: np.ndarray) -> np.ndarray:
        tensors = layout.split(adapter)
        middle = tensors.get("a.lora_C.weight", np.eye(2))
        return tensors["a.lora_B.weight"] @ middle @ tensors["a.lora_A.weight"]

    mean = np.mean([product(adapter) for adapter in adapters], axis=0)
    np.testing.assert_allclose(product(np.mean(adapters, axis=0)), mean, atol=1e-5)


def test_a_polyak_average_is_the_mean_of_the_last_half() -> None:
    np.testing.assert_allclose(average_weights("polyak", 1), [1.0])
    np.testing.assert_allclose(average_weights("polyak", 5), [0, 0, 1 / 3, 1 / 3, 1 / 3])


def test_an_exponential_average_forgets_by_the_decay_of_each_round() -> None:
    np.testing.assert_allclose(average_weights("ema", 1), [1.0])
    # d is 3/12 in round 2 and 4/13 in round 3.
    np.testing.assert_allclose(average_weights("ema", 3), [1 / 13, 3 / 13, 9 / 13])
    long = average_weights("ema", 200)
    assert long.sum() == pytest.approx(1.0)
    assert long[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["polyak", "ema"])
def test_what_is_kept_is_the_average_and_its_score(tmp_path: Path, kind: Any) -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    folder, evaluator = run_of(tmp_path / "run", kind, values), Evaluates()
    keep_average(folder, LAYOUT, evaluator)  # type: ignore[arg-type]

    expected = float(average_weights(kind, 4) @ values)
    np.testing.assert_allclose(load_average(folder, LAYOUT), np.full(4, expected), rtol=1e-6)
    found = read_average(folder)
    assert found is not None
    assert (found.kind, found.first, found.last) == (kind, 3 if kind == "polyak" else 1, 4)
    assert found.loss == pytest.approx(expected, rel=1e-6)
    # The run itself goes on from its last adapter.
    np.testing.assert_array_equal(folder.newest_adapter(LAYOUT), np.full(4, 8.0, np.float32))


def test_a_run_that_goes_on_averages_anew_and_one_that_does_not_is_left(tmp_path: Path) -> None:
    folder, evaluator = run_of(tmp_path / "run", "polyak", [1.0, 3.0]), Evaluates()
    keep_average(folder, LAYOUT, evaluator)  # type: ignore[arg-type]
    keep_average(folder, LAYOUT, evaluator)  # type: ignore[arg-type]
    assert len(evaluator.scored) == 1
    folder.finish_round(make_record(3), LAYOUT, State(adapter=np.full(4, 5.0, np.float32)))
    keep_average(folder, LAYOUT, evaluator)  # type: ignore[arg-type]
    np.testing.assert_array_equal(load_average(folder, LAYOUT), np.full(4, 4.0, np.float32))


@pytest.mark.parametrize(("kind", "rounds"), [("none", 2), ("polyak", 0)])
def test_nothing_is_averaged_that_nobody_asked_for_or_that_is_not_there(
    tmp_path: Path, kind: str, rounds: int
) -> None:
    folder, evaluator = run_of(tmp_path / "run", kind, [1.0] * rounds), Evaluates()
    keep_average(folder, LAYOUT, evaluator)  # type: ignore[arg-type]
    assert read_average(folder) is None
    assert not evaluator.scored
    with pytest.raises(UserError, match=r"nothing beside its rounds"):
        export_adapter(folder, tmp_path / "out", average=True)


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", "ema", [1.0])
    keep_average(folder, LAYOUT, Evaluates())  # type: ignore[arg-type]
    (averaged_path(folder) / "average.json").write_text("[]")
    with pytest.raises(RunError, match="cannot be read"):
        read_average(folder)


def test_an_exported_average_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_of(tmp_path / "run", "polyak", [1.0, 2.0, 4.0])
    keep_average(folder, LAYOUT, Evaluates())  # type: ignore[arg-type]
    monkeypatch.setattr("runs.privacy_card._plans", lambda *_: [])  # no site signed for what is made up
    export_adapter(folder, tmp_path / "out", average=True)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    np.testing.assert_array_equal(tensors["b"], np.full((2, 2), 3.0, np.float32))
    assert not (tmp_path / "out" / "average.json").exists()
    words = "The mean of the adapters after rounds 2 to 3"
    card = json.loads((tmp_path / "out" / "privacy-card.json").read_text())["card"]
    assert (card["round"], card["averaged"]) == (3, words)
    readme = (tmp_path / "out" / "README.md").read_text()
    assert words in readme
    assert "| accuracy | 25.0 %" in readme
    (notice,) = (
        one
        for one in find_notices(folder.manifest, folder.records(), average=read_average(folder))
        if one.title == "Beside the last adapter"
    )
    assert notice.text.startswith(f"{words} has a held-out loss of 3.0000")
