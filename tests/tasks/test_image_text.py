"""Pictures with words: a loss and a gradient a pair, a public bank, and refusals by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from privacy.errors import JobError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.data.caption_vectors import LENGTH, caption_vector, plain_caption
from tasks.measures import mean_loss
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.pair_outcome import RECALL_1, RECALL_10, PairOutcome, divergence
from tasks.pixels import image_logits, scaled_pixels
from tasks.registry import checked_job, find_task
from tests.models import random_adapter
from tests.tasks.exported import exported_program
from tests.tasks.model.test_image_base import save_model
from tests.tasks.networks import PAIRS, job_table, write_pairs
from tests.tasks.own_gradients import check_own_gradients

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}


def make_job(folder: Path, *, keys: dict[str, Any] | None = None, **changes: Any) -> Job:
    table = write_pairs(folder / "pairs.csv")
    return checked_job(parse_job(job_table("image-text", table, PAIRS | (keys or {}), **changes)))


def adapt(job: Job) -> AdaptedModel:
    return AdaptedModel(load_base_model(job, labels=(), device=CPU), job=job, device=CPU)


def read(path: Path) -> DataSet:
    source = DataSource(source=str(path), task="image-text", path="picture", caption="words")
    return read_data_set("pairs", source)


def pretrained(folder: Path) -> dict[str, Any]:
    return {
        "model": {"source": str(save_model(folder, "ViT"))},
        "adapter": {"rank": 2, "target_modules": ["q_proj", "v_proj"]},
        "keys": {"colours": True},
    }


@pytest.mark.parametrize("alignment", [0.0, 0.5])
@pytest.mark.parametrize("drawn", [True, False])
def test_a_pairs_gradient_is_its_own(drawn: bool, alignment: float, tmp_path: Path) -> None:
    sections = {} if drawn else pretrained(tmp_path)
    keys = sections.pop("keys", {}) | {"alignment": alignment}
    job = make_job(tmp_path, keys=keys, **sections)
    assert check_own_gradients(lambda: adapt(job)).method.batched


def test_the_loss_is_that_of_the_own_caption_among_half_of_the_bank() -> None:
    own, others = torch.tensor([1.0, 2.0]), torch.tensor([[0.0, 3.0, 2.0, 1.0], [5.0, 0.0, 0.0, 0.0]])
    alike = torch.tensor([[False] * 4, [True, False, False, False]])
    found = PairOutcome.of(own, others, alike=alike)
    # Against 0 and 2; against 0 alone, as its own caption stands first in the bank.
    expected = [np.log(np.exp(1) + np.exp(0) + np.exp(2)) - 1, np.log(np.exp(2) + np.exp(0)) - 2]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    # Of the other half 3 is higher than 1, and 1 is as high, which counts against it.
    assert found.ranks.tolist() == [3, 1]
    sums = found.sums()
    assert (RECALL_1.of(sums), RECALL_10.of(sums)) == (0.5, 1.0)
    assert mean_loss(sums) == pytest.approx(np.mean(expected))


def test_what_is_learned_against_half_of_the_bank_says_nothing_of_the_other() -> None:
    random = torch.Generator().manual_seed(0)
    own, others = torch.randn(4, generator=random), torch.randn(4, 8, generator=random, requires_grad=True)
    PairOutcome.of(own, others, alike=torch.zeros(4, 8, dtype=torch.bool)).losses.sum().backward()
    assert others.grad[:, 0::2].abs().min() > 0
    assert not others.grad[:, 1::2].any()


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_alignment_adds_the_divergence_of_a_captions_attention_from_its_pictures(tmp_path: Path) -> None:
    plain, aligned = (
        adapt(make_job(tmp_path, keys={"alignment": weight, "bank": [*PAIRS["bank"], "Bright above 1"]}))
        for weight in (0.0, 0.5)
    )
    examples = plain.probe()
    # The second caption stands in the bank, at a place that is trained against: 41 are there.
    known = caption_vector("bright above 1")
    arrays = dict(examples.arrays) | {"known": np.array([0, 41, 0])}
    arrays["words"] = np.stack([caption_vector("dim right 3"), known, caption_vector("bicycle")])
    batch = replace(examples, arrays=arrays).batch(np.arange(3))
    adapter = random_adapter(plain)
    found = []
    for adapted in (plain, aligned):
        adapted.load(adapter)
        adapted.peft.eval()
        with torch.no_grad():
            found.append(adapted.forward(batch).losses.double().numpy())
            pixels = scaled_pixels(batch.inputs["values"], adapted.base.reader.image)
            vectors = image_logits(adapted.peft, pixels).double().numpy()

    half = plain.base.reader.vectors[0::2].astype(float)
    wanted, got = softmax(16.0 * arrays["words"] @ half.T), softmax(vectors @ half.T)
    expected = 0.5 * (wanted * np.log(wanted / got)).sum(axis=1)
    np.testing.assert_allclose(found[1] - found[0], expected, rtol=1e-4)
    assert expected.min() > 0.05
    assert wanted[1].argmax() == len(half) - 1  # it attends to itself


def test_a_pull_is_one_pairs_alone_and_over_half_of_the_bank() -> None:
    random = torch.Generator().manual_seed(0)
    similar = torch.randn(3, 8, generator=random)
    similar[2] = 0.0  # a blank pair's caption is near none
    scores = torch.randn(3, 8, generator=random, requires_grad=True)
    pulled = divergence(similar, scores, temperature=0.1)
    assert pulled.isfinite().all()
    assert pulled[:2].min() > 0.0 == float(pulled[2])
    alone = [divergence(similar[[row]], scores[[row]], temperature=0.1) for row in range(3)]
    torch.testing.assert_close(pulled, torch.cat(alone))
    pulled.sum().backward()
    assert scores.grad[:2, 0::2].abs().min() > 0
    assert not scores.grad[:, 1::2].any()
    assert not scores.grad[2].any()
    same = divergence(similar, 10 * similar, temperature=0.1)
    torch.testing.assert_close(same, torch.zeros(3), atol=1e-5, rtol=0)


def test_captions_with_the_same_words_are_near_and_however_written_the_same() -> None:
    assert plain_caption("  Arrow—LEFT_2 (ﬁlled) ") == "arrow left 2 filled"
    assert plain_caption("Größe 長さ") == "grösse 長さ"
    assert np.array_equal(caption_vector("arrow-left"), caption_vector("Arrow Left"))
    one, near, far = map(caption_vector, ("arrow left", "arrow right", "bicycle"))
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    assert one @ near > 0.3 > abs(one @ far)
    assert caption_vector("!").tolist() == [0.0] * LENGTH
    # Where a word and its three letters stand follows from SHA-256: ca97… is that of "a".
    assert caption_vector("a")[0xCA] == pytest.approx(0.5**0.5)


def test_a_row_without_an_image_or_words_is_blank_and_says_why(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 9).save(tmp_path / "a.png")
    Image.new("L", (16, 16), 9).save(tmp_path / "b.tif")
    table = tmp_path / "pairs.csv"
    rows = ["a.png,A Cat", "gone.png,a cat", "a.png,--", ",a cat", "b.tif,a  cat", "a.png,a dog"]
    table.write_text("picture,words\n" + "\n".join(rows) + "\n")
    data = read(table)
    assert data.blank == {
        "'gone.png' is not there": (1,),
        "a caption without words": (2,),
        "no content, or none that can be read": (3,),
    }
    # The same pixels, whatever is said of them: one example, and for a classifier of images the same one.
    whole = find_task("image-classification").digest(data.rows.contents[0].image)
    assert data.digests[0] == data.digests[4] == data.digests[5] == whole != data.digests[1]
    reader = find_task("image-text").Section(**PAIRS | {"bank": ["A-cat", *PAIRS["bank"]]}).reader
    examples = data.task.encode(reader, data.rows, labels=()).examples
    assert (examples.sizes > 0).tolist() == [True, False, False, False, True, True]
    assert examples.arrays["known"].tolist() == [1, 0, 0, 0, 1, 0]
    assert np.array_equal(examples.arrays["words"][5], caption_vector("a dog"))


@pytest.mark.parametrize("loss", ["infonce", "clip", "sigmoid"])
def test_a_loss_over_a_batch_is_refused_by_its_name(loss: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as told:
        make_job(tmp_path, keys={"loss": loss})
    assert f"data.loss: expected \"bank\", got '{loss}': a loss over a batch" in str(told.value)
    assert "no pair has a gradient of its own" in str(told.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": {"bank": PAIRS["bank"][:39]}}, "data.bank: expected"),
        ({"keys": {"bank": [*PAIRS["bank"], "Dark Left-0"]}}, "'dark left 0' is not such a one"),
        ({"keys": {"bank": [*PAIRS["bank"], "?"]}}, "'?' is not such a one"),
        ({"keys": {"alignment": -0.5}}, "data.alignment: expected"),
        ({"keys": {"caption": "picture"}}, "caption: expected another column than path"),
        ({"model": {"source": "drawn", "head": "checkpoint"}}, 'model.head: expected "new"'),
        ({"model": {"source": "drawn", "pooling": "mean"}}, "model.pooling: expected none"),
    ],
)
def test_a_job_that_does_not_fit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as told:
        make_job(tmp_path, **changes)
    assert words in str(told.value)


def test_without_noise_it_learns_and_its_export_finds_the_same_captions(tmp_path: Path) -> None:
    training = {
        "rounds": 3,
        "local_steps": 4,
        "batch_size": 16,
        "physical_batch_size": 16,
        "learning_rate": 2.0,
    }
    job = make_job(tmp_path, training=training, **NOT_PRIVATE)
    run = simulate(job, runs=tmp_path / "runs")
    # Above and below alone say nothing of the number: chance is 10 of 21 captions of the bank.
    assert run.measures["recall_at_10"] > 0.9
    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    told = json.loads((tmp_path / "merged" / "network.json").read_text())
    assert len(told["made_of"]["labels"]) == LENGTH

    adapted = adapt(job)
    adapted.load(folder.load_adapter(3, adapted.layout))
    adapted.peft.eval()
    values = torch.from_numpy(adapted.probe().arrays["values"])
    pixels = scaled_pixels(values, adapted.base.reader.image)
    expected = image_logits(adapted.peft, pixels)
    programs = {
        name: exported_program(tmp_path / "merged" / f"{name}.py")
        for name in ("network", "caption_vectors")
    }
    torch.testing.assert_close(programs["network"].load(str(tmp_path / "merged"))(pixels), expected)
    words = programs["caption_vectors"].caption_vector("bright above 1")
    assert np.array_equal(words, caption_vector("bright above 1"))
