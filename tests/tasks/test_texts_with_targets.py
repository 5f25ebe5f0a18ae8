"""Texts with several labels, a label a word, or a number: trained, exported, checked, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from confide import audit_run
from privacy.errors import DataError, JobError
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.registry import find_task
from tests.tasks.own_gradients import check_own_gradients
from tests.tasks.texts_with_targets import KEYS, adapt, make_job

STOCK = {
    "multi-label-classification": (transformers.AutoModelForSequenceClassification, 3),
    "token-classification": (transformers.AutoModelForTokenClassification, 3),
    "text-regression": (transformers.AutoModelForSequenceClassification, 1),
}
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}


def read(path: Path, task: str, rows: list[dict[str, Any]], **keys: Any) -> Any:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read_data_set("texts", DataSource(source=str(path), task=task, **KEYS[task], **keys))


@pytest.mark.parametrize(
    ("task", "pooling"), [(task, "model") for task in KEYS] + [("multi-label-classification", "mean")]
)
def test_an_examples_gradient_is_its_own(task: str, pooling: str, tmp_path: Path) -> None:
    job = make_job(task, tmp_path, model={"pooling": pooling})
    assert check_own_gradients(lambda: adapt(job), rows=5).method.batched


@pytest.mark.parametrize("task", KEYS)
@pytest.mark.exhaustive(but=1)
def test_it_runs_under_masks_and_stock_libraries_load_what_is_exported(task: str, tmp_path: Path) -> None:
    job = make_job(task, tmp_path, metrics={"epsilon": 1.0})
    run = simulate(job, runs=tmp_path / "runs")
    assert set(run.measures) == {measure.name for measure in find_task(task).measures}
    assert all(np.isfinite(value) for value in run.measures.values())
    assert set(run.by_label) == set(KEYS[task].get("labels", ()))
    assert run.metrics is not None
    assert all(value is not None and value <= 8.0 for value in run.epsilon.values())
    audit_run(run.folder, ledgers=[run.folder / "sites" / "site-1"])

    folder, adapted = RunFolder.open(run.folder), adapt(job)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    texts = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 8, 9, 3]]),
        "attention_mask": torch.ones(2, 4).long(),
    }
    expected = adapted.peft(**texts).logits
    assert expected.abs().max() > 0

    kind, outputs = STOCK[task]
    export_merged(folder, tmp_path / "merged")
    merged = kind.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(**texts).logits, expected)
    problem = {"multi-label-classification": "multi_label_classification", "text-regression": "regression"}
    assert merged.config.problem_type == problem.get(task)
    if task == "text-regression":
        assert merged.config.number_range == [0.0, 8.0]

    export_adapter(folder, tmp_path / "adapter")
    base = kind.from_pretrained(tmp_path / "model", num_labels=outputs)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**texts).logits, expected)


@pytest.mark.parametrize(
    ("task", "pooling", "rate", "measure", "least"),
    [
        pytest.param("multi-label-classification", "mean", 1.0, "auc", 0.75, marks=pytest.mark.exhaustive),
        ("token-classification", "model", 4.0, "f1", 0.7),
        ("text-regression", "mean", 0.4, "r2", 0.15),
    ],
)
@pytest.mark.statistics
def test_without_noise_it_learns(
    task: str, pooling: str, rate: float, measure: str, least: float, tmp_path: Path
) -> None:
    training = {
        "rounds": 6,
        "local_steps": 4,
        "batch_size": 32,
        "physical_batch_size": 16,
        "learning_rate": rate,
    }
    job = make_job(task, tmp_path, model={"pooling": pooling}, training=training, **NOT_PRIVATE)
    run = simulate(job, runs=tmp_path / "runs")
    assert run.measures[measure] > least


def test_a_texts_labels_are_a_list_or_stand_one_after_another(tmp_path: Path) -> None:
    task = "multi-label-classification"
    rows = [
        {"text": "good day", "topics": ["good"]},
        {"text": "fine day", "topics": " food ;good;food"},
        {"text": "bad day", "topics": None},
        {"text": "poor day", "topics": []},
        {"text": "late day", "topics": ["good", "snow"]},
        {"text": "warm day", "topics": [["good"]]},
        {"text": None, "topics": ["good"]},
    ]
    data = read(tmp_path / "a.jsonl", task, rows)
    assert data.rows.labels == (("good",), ("food", "good"), (), (), ("good", "snow"), None, ("good",))
    assert data.blank == {
        "no content, or none that can be read": (6,),
        "no label, or one that is not declared": (4, 5),
    }
    assert data.counts == {"good": 4, "food": 1}
    job = make_job(task, tmp_path)
    found = data.examples(adapt(job), labels=data.labels)
    assert found.targets[:4].tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert np.flatnonzero(found.sizes == 0).tolist() == [4, 5, 6]


def test_a_words_label_is_at_its_first_token_and_a_document_without_is_blank(tmp_path: Path) -> None:
    task = "token-classification"
    rows = [
        {"words": ["good", "dayfood", "night"], "kinds": ["mood", "time", "time"]},
        {"words": "good night", "kinds": "mood time"},
        {"words": ["good", "night"], "kinds": ["mood"]},
        {"words": ["good"], "kinds": ["weather"]},
        {"words": ["good day"], "kinds": ["mood"]},
        {"words": ["good"] * 9, "kinds": ["mood"] * 9},
    ]
    data = read(tmp_path / "a.jsonl", task, rows)
    assert data.blank == {
        "a label for each word, and no more, is not there": (2,),
        "no label, or one that is not declared": (3,),
        "no content, or none that can be read": (4,),
    }
    assert data.digests[1] == find_task("sequence-classification").digest("Good  night")
    found = data.examples(adapt(make_job(task, tmp_path)), labels=data.labels)
    told = [found.token_labels[found.offsets[row] : found.offsets[row + 1]].tolist() for row in range(6)]
    # [CLS] and [SEP] have none. A text of nine words is cut to eight tokens, of which six are words.
    assert told[:2] == [[-1, 0, 1, 1, -1], [-1, 0, 1, -1]]
    assert told[2:] == [[], [], [], [-1, *[0] * 6, -1]]


def test_words_in_pieces_have_one_label_each(tmp_path: Path) -> None:
    job = make_job("token-classification", tmp_path)
    vocabulary = tmp_path / "model" / "vocab.txt"
    words = vocabulary.read_text().split()
    words[-2:] = ["##day", "##s"]
    tokenizer = transformers.BertTokenizerFast(vocab={word: place for place, word in enumerate(words)})
    tokenizer.save_pretrained(tmp_path / "model")
    adapted = adapt(job)
    (tmp_path / "a.jsonl").write_text('{"words": ["gooddays", "night"], "kinds": ["mood", "time"]}\n')
    data = read_data_set(
        "texts", DataSource(source=str(tmp_path / "a.jsonl"), task=job.task, **KEYS[job.task])
    )
    assert data.examples(adapted, labels=data.labels).token_labels.tolist() == [-1, 0, -1, -1, 1, -1]


def test_numbers_are_cut_off_at_their_range_and_rows_without_one_are_blank(tmp_path: Path) -> None:
    task = "text-regression"
    rows = [
        {"text": "good day", "score": 2},
        {"text": "bad day", "score": 99},
        {"text": "fine day", "score": "much"},
        {"text": "", "score": 1},
    ]
    data = read(tmp_path / "a.jsonl", task, rows)
    assert data.rows.remarks == ("numbers outside data.range, which are cut off at its ends: 1",)
    assert data.blank == {"no finite number": (2,), "no content, or none that can be read": (3,)}
    assert data.digests[0] == find_task("causal-lm").digest("good day")
    adapted = adapt(make_job(task, tmp_path))
    found = data.examples(adapted, labels=())
    adapted.load(np.zeros(adapted.layout.adapter_size, np.float32))
    outcome = adapted.forward(found.batch(np.array([0, 1])))
    # A head of zeros says the middle of the range, 4: half of its half away from 2, and all of it from 8.
    assert outcome.losses.tolist() == [0.125, 0.5]
    assert outcome.correct.tolist() == [0, 0]
    sums = outcome.sums()
    measures = {measure.name: measure.of(sums) for measure in find_task(task).measures}
    # Numbers 2 and 8, told 4 both times: squared errors 4 + 16 against 9 + 9 around their mean.
    assert measures == pytest.approx(
        {"r2": 1 - 20 / 18, "mean_error": 3.0, "rmse": 10**0.5, "accuracy": 0.0}
    )


DIRICHLET = {"federation": {"sites": 2, "partition": {"dirichlet": 0.5}}}


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("multi-label-classification", {"data": {"labels": None}}, "data.labels: expected the list"),
        ("multi-label-classification", {"data": {"label": None}}, "data.label: expected a column name"),
        (
            "multi-label-classification",
            {"data": {"between": "oo"}},
            "between: expected what is in no label",
        ),
        ("multi-label-classification", DIRICHLET, 'federation.partition: expected "iid" or a column'),
        ("token-classification", DIRICHLET, 'federation.partition: expected "iid" or a column'),
        ("token-classification", {"data": {"labels": None}}, "data.labels: expected the list"),
        ("token-classification", {"model": {"pooling": "mean"}}, 'model.pooling: expected "model"'),
        ("text-regression", DIRICHLET, "federation.partition: dirichlet needs labels"),
        ("text-regression", {"data": {"range": [3.0, 3.0]}}, "range: expected a lower end"),
        ("text-regression", {"data": {"range": None}}, "data.range"),
        ("text-regression", {"model": {"head": "checkpoint"}}, 'model.head: expected "new"'),
        ("text-regression", {"data": {"labels": ["a", "b"]}}, "labels"),
    ],
)
def test_what_they_cannot_do_is_refused(
    task: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as told:
        make_job(task, tmp_path, **changes)
    assert words in str(told.value)


def test_a_label_that_is_not_declared_is_named_to_who_simulates(tmp_path: Path) -> None:
    job = make_job("token-classification", tmp_path, data={"labels": ["mood", "time"]})
    with pytest.raises(DataError, match=r"data\.labels: expected one of mood, time, got 'other'"):
        simulate(job, runs=tmp_path / "runs")
