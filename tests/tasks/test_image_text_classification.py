"""Images with words: a gradient an example, weights that share it, and either of both missing."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from PIL import Image

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from client.training.gradient_check import choose_gradients
from client.training.gradients import losses
from privacy.errors import JobError, ModelError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.data.caption_vectors import LENGTH, caption_vector
from tasks.data.examples import Batch
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel, load_base_model
from tasks.model.device import Device
from tasks.model.forward_cut import HeadCut
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.model.noted_network import JointClassifier
from tasks.pixels import logits_in, scaled_pixels
from tasks.registry import checked_job, find_task, read_job
from tests.models import random_adapter
from tests.tasks.exported import exported_network, exported_program
from tests.tasks.model.test_frozen_prefix import ROUNDING
from tests.tasks.model.test_frozen_prefix import losses as losses_of
from tests.tasks.model.test_image_base import FAMILIES, save_model
from tests.tasks.networks import NOTED, job_table, write_noted
from tests.tasks.own_gradients import check_own_gradients

EXAMPLES = Path(__file__).parents[2] / "examples"
TASK = "image-text-classification"
CPU = Device(torch=torch.device("cpu"), bfloat16=False)
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}
LORA: dict[str, Any] = {
    "adapter": {"rank": 2, "target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    "strategy": {"name": "ffa"},
}
LONG = {"rounds": 4, "local_steps": 5, "batch_size": 16, "physical_batch_size": 16, "learning_rate": 4.0}


def make_job(folder: Path, *, keys: dict[str, Any] | None = None, **changes: Any) -> Job:
    table = write_noted(folder / "parts.csv", rows=changes.pop("rows", 60))
    return checked_job(parse_job(job_table(TASK, table, NOTED | (keys or {}), **changes)))


def on_trunk(folder: Path, family: str = "ConvNextV2", **changes: Any) -> Job:
    sections = {"model": {"source": str(save_model(folder, family))}, "strategy": {"name": "head"}}
    return make_job(folder, keys={"colours": True} | changes.pop("keys", {}), **sections | changes)


def load(job: Job) -> BaseModel:
    return load_base_model(job, labels=tuple(NOTED["labels"]), device=CPU)


def adapt(job: Job) -> AdaptedModel:
    return AdaptedModel(load(job), job=job, device=CPU)


def read(path: Path) -> DataSet:
    keys = {key: NOTED[key] for key in ("path", "text", "label", "labels")}
    return read_data_set("parts", DataSource(source=str(path), task=TASK, **keys))


def gradient_lengths(adapted: AdaptedModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Of each example, by the trained tensor."""
    found = choose_gradients(adapted).backward(batch, losses(adapted))
    return {name: one.flatten(1).norm(dim=1) for name, one in found.items()}


def test_an_examples_gradient_is_its_own(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert check_own_gradients(lambda: adapt(job)).method.batched


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.exhaustive(but=1)
def test_a_trunk_runs_once_an_example_and_its_words_are_kept_with_it(family: str, tmp_path: Path) -> None:
    job = on_trunk(tmp_path, family)
    compared = check_own_gradients(lambda: adapt(job))
    adapted, examples = compared.adapted, compared.examples
    assert {slot.name.rpartition(".")[0] for slot in adapted.layout.slots} == {
        "base_model.model.joint.classifier"
    }
    adapted.peft.eval()
    plain = losses_of(adapted, examples, None)
    prefix = FrozenPrefix(adapted)
    kept = Activations(prefix, examples)
    assert kept.work
    assert isinstance(prefix._cut, HeadCut)
    first = losses_of(adapted, examples, kept)
    passes: list[object] = []
    adapted.peft.get_base_model().trunk.register_forward_hook(lambda *_: passes.append(1))
    again = losses_of(adapted, examples, kept, size=2)
    np.testing.assert_allclose(first, plain, rtol=ROUNDING)
    np.testing.assert_allclose(again, plain, rtol=ROUNDING)
    assert not passes
    losses_of(adapted, examples, None)
    assert passes  # the hook counts what there is to count


def test_lora_on_a_trunks_layer_has_gradients_of_single_examples(tmp_path: Path) -> None:
    job = on_trunk(tmp_path, "ViT", **LORA)
    compared = check_own_gradients(lambda: adapt(job))
    assert compared.method.batched
    pairs = [name for name in compared.found if ".lora_" in name]
    assert pairs
    assert all(".trunk.vit." in name and ".1." in name for name in pairs)


def test_weights_share_out_the_length_of_a_gradient() -> None:
    random = torch.Generator().manual_seed(0)
    features, words = torch.randn(1, 6, generator=random), torch.randn(1, 4, generator=random)
    words /= words.norm()
    for image, text in ((1.0, 1.0), (3.0, 0.5), (0.0, 1.0), (2.0, 0.0)):
        layer = JointClassifier(labels=["a", "b"], features=6, words=4, weights=[image, text])
        layer(1e3 * features, words, torch.ones(1)).logsumexp(1).sum().backward()
        both = layer.classifier.weight.grad
        lengths = both[:, :6].norm(), both[:, 6:].norm()
        # All of it is as long as what the answer is off by, times what the layer reads.
        off = layer.classifier.bias.grad.norm()
        assert [float(length / off) for length in lengths] == pytest.approx([image, text], rel=1e-5)


def test_a_missing_image_is_zero_whatever_its_pixels_and_moves_no_filter(tmp_path: Path) -> None:
    adapted = adapt(make_job(tmp_path))
    adapted.load(random_adapter(adapted))
    examples = adapted.probe()
    arrays = dict(examples.arrays) | {"seen": np.array([1, 0, 0], np.float32)}
    arrays["words"] = np.stack([np.zeros(LENGTH, np.float32), caption_vector("wet"), caption_vector("wet")])
    labels = np.zeros(3, np.int64)
    batch = replace(examples, arrays=arrays, labels=labels).batch(np.arange(3))
    assert not np.array_equal(arrays["values"][1], arrays["values"][2])
    found = gradient_lengths(adapted, batch)
    assert all(lengths.isfinite().all() for lengths in found.values())
    filters = {name: lengths for name, lengths in found.items() if ".joint." not in name}
    assert len(filters) == 8
    for lengths in filters.values():
        assert lengths[0] > 0.0 == float(lengths[1:].sum())
    with torch.no_grad():
        _, second, third = adapted.forward(batch).losses
    assert second == third


def test_what_is_missing_is_zero_and_only_a_row_without_both_is_blank(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"cut off")
    table = tmp_path / "parts.csv"
    rows = [
        "a.png,It leaks,mend",
        "a.png,,leave",
        ",it  LEAKS,scrap",
        "b.png,It leaks,mend",
        "gone.png,--,mend",
        ",,mend",
        "a.png,It is dry,melt",
        "a.png,It is dry,",
    ]
    table.write_text("picture,note,do\n" + "\n".join(rows) + "\n")
    data = read(table)
    assert data.blank == {
        "'b.png' is no JPEG, PNG, TIFF or DICOM": (3,),  # with its words alone it would be another example
        "'gone.png' is not there": (4,),
        "no content, or none that can be read": (5,),
        "no label, or one that is not declared": (6, 7),
    }
    assert data.rows.remarks == (
        "rows with words and no image: 1",
        "rows with an image and no words: 1",
    )
    reader = data.task.open_reader("", data.columns)
    examples = data.task.encode(reader, data.rows, labels=data.labels).examples
    assert (examples.sizes > 0).tolist() == [True] * 3 + [False] * 5
    assert examples.arrays["seen"].tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert not examples.arrays["values"].any()  # a black image, which is seen, and images that are not
    words = examples.arrays["words"]
    assert np.array_equal(words[0], caption_vector("it leaks"))
    assert not words[[1, 3, 4, 5]].any()
    # An image is one example whatever is written beside it, here and to tasks on images; without one
    # words are, here and to tasks on texts.
    assert len({data.digests[row] for row in (0, 1, 6, 7)}) == 1
    images, texts = (find_task(name) for name in ("image-classification", "sequence-classification"))
    assert data.digests[0] == images.digest(data.rows.contents[0].image)
    assert data.digests[2] == texts.digest("It leaks")
    assert data.digests[3] == data.digests[4] == data.digests[5] == data.task.digest(None)
    # What is one to the ledger is on one side of a held-out split.
    assert data.rows.contents[0] == data.rows.contents[1] != data.rows.contents[2]
    assert len(set(data.digests)) == 3


def test_rows_can_be_groups_of_a_persons(tmp_path: Path) -> None:
    assert find_task(TASK).one_row_an_example(None)
    keys = {"group": "picture", "rows_per_group": 2}
    job = make_job(tmp_path, keys=keys, privacy={"unit": "group", "epsilon": 8.0, "delta": 1e-3})
    adapted = adapt(job)
    assert adapted.probe().batch(np.arange(3)).inputs["seen"].shape == (3, 2)
    assert check_own_gradients(lambda: adapt(job)).found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": {"weights": {"image": 0.0, "text": 0}}}, "data.weights: expected more than 0 of"),
        ({"keys": {"weights": {"image": -1.0}}}, "data.weights.image: expected"),
        ({"keys": {"weights": {"sound": 1.0}}}, "data.weights.sound"),
        ({"keys": {"text": "picture"}}, "text: expected another column than path"),
        ({"keys": {"labels": None}}, "data.labels: expected the list of labels"),
        ({"model": {"source": "drawn", "head": "checkpoint"}}, 'model.head: expected "new"'),
        ({"model": {"source": "drawn", "features": "public"}}, "model.features: expected none"),
        ({"model": {"source": "drawn", "pooling": "mean"}}, "model.pooling: expected none"),
    ],
)
def test_a_job_that_does_not_fit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    keys = {key: value for key, value in (NOTED | changes.pop("keys", {})).items() if value is not None}
    with pytest.raises(JobError) as told:
        checked_job(parse_job(job_table(TASK, tmp_path / "none.csv", keys, **changes)))
    assert words in str(told.value)


def test_a_trunk_that_makes_more_of_its_last_layer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    kind = transformers.ConvNextV2ForImageClassification
    own = kind.forward

    def halved(self: Any, *args: Any, **options: Any) -> Any:
        found = own(self, *args, **options)
        found.logits = found.logits / 2
        return found

    monkeypatch.setattr(kind, "forward", halved)
    with pytest.raises(ModelError, match=r"model\.source: expected a model whose last layer"):
        load(on_trunk(tmp_path))


def test_the_digest_holds_the_weights_and_the_trunk(tmp_path: Path) -> None:
    more = {"weights": {"image": 1.0, "text": 2.0}}
    drawn = [make_job(tmp_path), make_job(tmp_path, keys=more), make_job(tmp_path, seeds={"adapter": 7})]
    trunks = [on_trunk(tmp_path), on_trunk(tmp_path, keys=more), on_trunk(tmp_path, "ViT")]
    digests = [load(job).digest for job in drawn + trunks]
    assert len(set(digests)) == len(digests)
    assert load(make_job(tmp_path)).digest == digests[0]
    assert load(on_trunk(tmp_path)).digest == digests[3]


@pytest.mark.parametrize(
    "make",
    [make_job, on_trunk, lambda folder: on_trunk(folder, "ViT", **LORA)],
    ids=["drawn", "trunk", "lora"],
)
def test_a_run_under_masks_is_exported_as_its_own_program_loads_it(
    make: Callable[[Path], Job], tmp_path: Path
) -> None:
    job = make(tmp_path)
    run = simulate(job, runs=tmp_path / "runs")
    assert {"accuracy", "auc", "brier"} <= run.measures.keys()
    folder, adapted = RunFolder.open(run.folder), adapt(job)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    inputs = adapted.probe().batch(np.arange(3)).inputs
    pixels, words = scaled_pixels(inputs["values"], adapted.base.reader.image), inputs["words"]
    seen = torch.tensor([1.0, 0.0, 1.0])
    with torch.no_grad():
        expected = logits_in(adapted.peft(pixels, words, seen))
    assert expected.abs().max() > 0

    merged = tmp_path / "merged"
    export_merged(folder, merged)
    with torch.no_grad():
        found = logits_in(exported_network(merged)(pixels, words, seen))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    export_adapter(folder, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(load(job).model, tmp_path / "adapter").eval()
    with torch.no_grad():
        found = logits_in(loaded(pixels, words, seen))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    told = json.loads((merged / "network.json").read_text())
    assert told["made_of"]["labels"] == NOTED["labels"]
    assert [line.partition(":")[0] for line in told["inputs"][-2:]] == ["words", "seen"]
    assert "The folder's own program loads it" in (merged / "README.md").read_text("utf-8")
    exported = exported_program(merged / "caption_vectors.py").caption_vector("it is wet")
    assert np.array_equal(exported, caption_vector("It is wet"))


@pytest.mark.statistics
def test_without_noise_both_say_more_than_either(tmp_path: Path) -> None:
    accuracy = {}
    for name, weights in (("both", (1.0, 1.0)), ("image", (1.0, 0.0)), ("text", (0.0, 1.0))):
        keys = {"weights": dict(zip(("image", "text"), weights, strict=True))}
        job = make_job(tmp_path, rows=160, keys=keys, training=LONG, **NOT_PRIVATE)
        accuracy[name] = simulate(job, runs=tmp_path / name).measures["accuracy"]
    # Of either alone a half is right at best, and a fifth of the rows have one alone.
    assert accuracy["both"] > 0.75
    assert accuracy["both"] > max(accuracy["image"], accuracy["text"]) + 0.1


def test_the_examples_parts_follow_from_a_seed_and_need_both(tmp_path: Path) -> None:
    write = runpy.run_path(str(EXAMPLES / "make_parts.py"))["write"]
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    for folder, seed in ((first, 0), (again, 0), (other, 1)):
        assert write(folder, count=80, seed=seed) == 80
    files = sorted(path.relative_to(first) for path in first.rglob("*.*"))
    assert all((first / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert (first / "parts.csv").read_text() != (other / "parts.csv").read_text()

    job = read_job(EXAMPLES / "noted-parts.toml")
    keys = {key: job.data.model_extra[key] for key in ("path", "text", "label", "labels")}
    data = read_data_set("parts", DataSource(source=str(first / "parts.csv"), task=TASK, **keys))
    assert data.blank == {}
    assert set(data.rows.labels or ()) == set(data.labels)
    # Some rows have one of both alone.
    assert {(content.image is None, not content.text) for content in data.rows.contents} == {
        (False, False),
        (True, False),
        (False, True),
    }
