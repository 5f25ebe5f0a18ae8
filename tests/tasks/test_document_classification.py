"""Documents are read in windows, and a document is one example: one loss and one gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from confide import audit_run
from privacy.errors import JobError
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.data.grouped_examples import GroupedExamples
from tasks.data.token_examples import TokenExamples
from tests.models import random_adapter
from tests.tasks.own_gradients import check_own_gradients
from tests.tasks.texts_with_targets import adapt, make_job
from tests.tiny import WORDS

TASK = "document-classification"
KEYS: dict[str, Any] = {"label": "kind", "labels": ["late", "early"]}
WINDOWS = {"windows": 3, "max_length": 6}


def write_documents(path: Path, *, rows: int = 120) -> Path:
    """Documents of up to four windows, with the word that tells their label somewhere in the first two."""
    random = np.random.default_rng(0)
    others = [word for word in WORDS if word not in ("late", "early")]
    with path.open("w") as file:
        for row in range(rows):
            words = [str(word) for word in random.choice(others, size=random.integers(3, 17))]
            kind = ("late", "early")[row % 2]
            words[int(random.integers(min(len(words), 8)))] = kind
            file.write(f"{json.dumps({'text': ' '.join(words), 'kind': kind})}\n")
    return path


def job(folder: Path, *, data: dict[str, Any] | None = None, **changes: Any) -> Any:
    path = folder / "documents.jsonl"
    source = {"source": str(path if path.exists() else write_documents(path))}
    return make_job(TASK, folder, data=source | KEYS | WINDOWS | (data or {}), **changes)


@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_a_documents_gradient_is_that_of_all_its_windows_together(pooling: str, tmp_path: Path) -> None:
    wanted = job(tmp_path, model={"pooling": pooling})
    compared = check_own_gradients(lambda: adapt(wanted), rows=5)
    assert compared.method.batched
    assert compared.examples.rows_an_example == 3


def test_windows_follow_one_another_and_empty_ones_weigh_nothing(tmp_path: Path) -> None:
    adapted = adapt(job(tmp_path))
    path = tmp_path / "a.jsonl"
    texts = ["good bad fine poor day night", "good", " ".join(["late"] * 40), "", "good day"]
    kinds = ["late", "early", "late", "late", "never"]
    path.write_text(
        "".join(f"{json.dumps({'text': t, 'kind': k})}\n" for t, k in zip(texts, kinds, strict=True))
    )
    data = read_data_set("data", DataSource(source=str(path), task="sequence-classification", **KEYS))
    found = data.examples(adapted, labels=data.labels)
    assert isinstance(found, GroupedExamples)
    assert isinstance(found.rows, TokenExamples)
    # Six tokens a window, of which two are [CLS] and [SEP].
    assert found.rows.sizes.reshape(-1, 3).tolist() == [[6, 4, 2], [3, 2, 2], [6, 6, 6], [0] * 3, [0] * 3]
    assert found.rows.targets.reshape(-1, 3).tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0] * 3, [0] * 3]
    assert found.sizes.tolist() == [6, 3, 6, 0, 0]
    adapted.load(random_adapter(adapted))
    batch = found.batch(np.array([1]))
    changed = batch.inputs["input_ids"].clone()
    changed[:, 1:] = 7  # where no window is
    logits = [adapted.forward(one).logits for one in (batch, batch.beside(input_ids=changed))]
    assert torch.equal(*logits)


def test_it_runs_under_masks_and_stock_libraries_load_what_is_exported(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    run = simulate(wanted, runs=tmp_path / "runs")
    assert set(run.by_label) == {"late", "early"}
    audit_run(run.folder, ledgers=[run.folder / "sites" / "site-1"])
    folder, adapted = RunFolder.open(run.folder), adapt(wanted)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    texts = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4).long()}
    expected = adapted.peft(**texts).logits
    export_merged(folder, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(**texts).logits, expected)
    export_adapter(folder, tmp_path / "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=2)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**texts).logits, expected)


def test_without_noise_it_learns(tmp_path: Path) -> None:
    training = {
        "rounds": 6,
        "local_steps": 4,
        "batch_size": 32,
        "physical_batch_size": 16,
        "learning_rate": 0.5,
    }
    run = simulate(
        job(
            tmp_path,
            model={"pooling": "mean"},
            training=training,
            privacy={"mechanism": "none"},
            seeds={"noise": 1},
        ),
        runs=tmp_path / "runs",
    )
    assert run.measures["auc"] > 0.8


def test_one_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"data\.windows"):
        job(tmp_path, data={"windows": 1})
