"""Images with masks: a gradient an image, Dice by hand, slices of volumes, and files that are no use."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from privacy.errors import JobError, ModelError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.data.image_files import ImageShape, find_image
from tasks.data.mask_files import MaskedShape, find_masked, read_masked
from tasks.data.named_files import UnreadableFileError
from tasks.mask_outcome import DICE, LEAST_DICE, MaskOutcome
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.pixels import scaled_pixels
from tasks.registry import checked_job, find_task
from tests.tasks.exported import exported_network
from tests.tasks.networks import MASKS, job_table, write_masks
from tests.tasks.own_gradients import check_own_gradients
from tests.tasks.scans import save_volume

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}
KEYS = {"path": "scan", "mask": "drawn", "labels": ["around", "organ", "tumour"]}


def make_job(folder: Path, *, keys: dict[str, Any] | None = None, **changes: Any) -> Job:
    table = write_masks(folder / "masks.csv")
    return checked_job(parse_job(job_table("image-segmentation", table, MASKS | (keys or {}), **changes)))


def adapt(job: Job) -> AdaptedModel:
    return AdaptedModel(load_base_model(job, labels=(), device=CPU), job=job, device=CPU)


def read(folder: Path, rows: list[str], **keys: Any) -> DataSet:
    table = folder / "table.csv"
    table.write_text("scan,drawn\n" + "\n".join(rows) + "\n")
    return read_data_set("scans", DataSource(source=str(table), task="image-segmentation", **KEYS | keys))


def test_an_images_gradient_is_its_own(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    check_own_gradients(lambda: adapt(job))


def test_the_same_network_is_drawn_everywhere(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    torch.manual_seed(1)
    first = adapt(job)
    torch.manual_seed(2)
    again = adapt(job)
    assert first.model_digest == again.model_digest
    start = first.initial_adapter(0)
    assert np.array_equal(start, again.initial_adapter(0))
    assert not any(t.any() for name, t in first.layout.split(start).items() if "classifier" in name)
    whole = sum(parameter.numel() for parameter in first.base.model.parameters()) // 2  # PEFT's two copies
    assert first.layout.trained_size == whole


def test_dice_and_loss_are_those_of_the_papers() -> None:
    masks = torch.tensor([[[0, 1], [1, 2]]])
    answers = torch.tensor([[[0, 1], [0, 2]]])
    logits = 50.0 * torch.nn.functional.one_hot(answers, 3).movedim(-1, 1).float()
    found = MaskOutcome.of(logits, masks)
    sums = found.sums()
    # One pixel of the second label is answered of two, and the third is all right.
    assert (DICE.of(sums), LEAST_DICE.of(sums)) == (pytest.approx((2 / 3 + 1) / 2), pytest.approx(2 / 3))
    assert (found.correct.tolist(), found.counted.tolist()) == ([3], [4])
    dice = np.mean([(2 * 1 + 1) / (3 + 1), (2 * 1 + 1) / (3 + 1), (2 * 1 + 1) / (2 + 1)])
    assert found.losses.item() == pytest.approx(
        1 - dice + 50 / 4, rel=1e-5
    )  # a log odds of 50, at one of four
    even = MaskOutcome.of(torch.zeros(1, 3, 2, 2), masks).losses.item()
    dice = np.mean([(2 * n / 3 + 1) / (4 / 3 + n + 1) for n in (1, 2, 1)])
    assert even == pytest.approx(1 - dice + (1 - 1 / 3) ** 2 * np.log(3), rel=1e-5)


def test_a_label_that_nobody_has_is_no_fault() -> None:
    nothing = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = 50.0 * torch.nn.functional.one_hot(nothing, 3).movedim(-1, 1).float()
    found = MaskOutcome.of(logits, nothing)
    assert DICE.of(found.sums()) == 1.0
    assert found.losses.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.statistics
def test_without_noise_it_learns_and_its_export_gives_the_same_logits(tmp_path: Path) -> None:
    training = {
        "rounds": 4,
        "local_steps": 4,
        "batch_size": 16,
        "physical_batch_size": 16,
        "learning_rate": 1.0,
    }
    job = make_job(tmp_path, training=training, **NOT_PRIVATE)
    run = simulate(job, runs=tmp_path / "runs")
    assert run.measures["dice"] > 0.6
    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    adapted = adapt(job)
    adapted.load(folder.load_adapter(4, adapted.layout))
    adapted.peft.eval()
    pixels = scaled_pixels(torch.from_numpy(adapted.probe().arrays["values"]), adapted.base.reader.image)
    torch.testing.assert_close(exported_network(tmp_path / "merged")(pixels), adapted.peft(pixels))


def test_slices_of_a_volume_are_examples_each_with_a_mask_that_decides_about_it_alone(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    values = random.integers(-1000, 1000, (8, 6, 4)).astype(np.int16)
    masks = random.integers(0, 3, (8, 6, 4)).astype(np.uint8)
    masks[0, 0, 2] = 7  # no label of that number
    save_volume(tmp_path / "head.nii.gz", values)
    save_volume(tmp_path / "drawn.nii", masks)
    data = read(tmp_path, ["head.nii.gz,drawn.nii"])
    assert len(data) == 4
    assert data.blank == {"'head.nii.gz' has a mask with a number that no label is declared for": (2,)}
    assert len(set(data.digests)) == 4
    shape = MaskedShape(image=ImageShape(size=16, colours=False), labels=3, low=-1000.0, high=1000.0)
    found = shape.encode(data.rows.contents)
    assert found["values"].shape == (4, 1, 16, 16)
    # 8 by 6 voxels become 16 by 12, and labels stay what they are.
    assert np.array_equal(found["mask"][1, ::2, 2:14:2], masks[:, :, 1])
    assert not found["mask"][2].any()
    assert not found["mask"][:, :, :2].any()


def test_a_volume_is_turned_to_one_side_whatever_its_header_says(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
    mask = (values % 3).astype(np.uint8)
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    save_volume(tmp_path / "a.nii", values[::-1], flipped)
    save_volume(tmp_path / "m.nii", mask)
    slices = list(read_masked(tmp_path / "a.nii", tmp_path / "m.nii", labels=3))
    assert np.array_equal(slices[1][0], values[:, :, 1])
    assert np.array_equal(slices[1][1], mask[:, :, 1])


def save_image(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_what_cannot_be_used_is_blank_and_says_why(tmp_path: Path) -> None:
    grey = np.full((6, 8), 100, np.uint8)
    save_image(tmp_path / "a.png", grey)
    save_image(tmp_path / "zero.png", grey * 0)
    save_image(tmp_path / "nine.png", grey * 0 + 9)
    save_image(tmp_path / "small.png", grey[:3] * 0)
    save_image(tmp_path / "colour.png", np.zeros((6, 8, 3), np.uint8))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.nii").write_bytes(
        save_volume(tmp_path / "v.nii", np.zeros((4, 4, 4), np.uint8)).read_bytes()[:380]
    )
    save_volume(tmp_path / "four.nii", np.zeros((2, 2, 2, 2), np.uint8))
    (tmp_path / "empty.nii").write_bytes(b"")
    said = {
        "a.png,zero.png": None,
        "a.png,nine.png": "'a.png' has a mask with a number that no label is declared for",
        "a.png,small.png": "'a.png' has another size than its mask",
        "a.png,colour.png": "'a.png' has a mask in colours: expected a number for each pixel",
        "a.png,text.png": "'a.png' has a mask that is no PNG, TIFF or NIfTI",
        "a.png,gone.png": "'a.png' has no mask: no such file is there",
        "gone.png,zero.png": "'gone.png' is not there",
        "a.png,": "no content, or none that can be read",
        "cut.nii,v.nii": "'cut.nii' is damaged, or was not written whole",
        "v.nii,cut.nii": "'v.nii' its mask is damaged, or was not written whole",
        "four.nii,v.nii": "'four.nii' has 4 dimensions, expected 3",
        "empty.nii,v.nii": "'empty.nii' is empty",
        "a.png,v.nii": "'a.png' has another size than its mask",
    }
    data = read(tmp_path, list(said))
    expected: dict[str, tuple[int, ...]] = {}
    for row, why in enumerate(said.values()):
        if why is not None:
            expected[why] = (*expected.get(why, ()), row)
    assert data.blank == expected


def test_of_two_labels_white_is_the_second(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    save_image(tmp_path / "m.png", np.array([[0, 255], [1, 0]], np.uint8))
    ((_, mask),) = read_masked(tmp_path / "a.png", tmp_path / "m.png", labels=2)
    assert mask is not None
    assert mask.tolist() == [[0, 1], [1, 0]]
    ((_, refused),) = read_masked(tmp_path / "a.png", tmp_path / "m.png", labels=3)
    assert refused is None


def test_an_image_is_the_same_example_as_without_a_mask(tmp_path: Path) -> None:
    """Else it would have one budget for each task."""
    save_image(tmp_path / "a.png", np.full((6, 8), 100, np.uint8))
    save_image(tmp_path / "m.png", np.zeros((6, 8), np.uint8))
    (found,) = find_masked(tmp_path / "a.png", tmp_path / "m.png", labels=2)
    alone = find_image(tmp_path / "a.png")
    masked, plain = find_task("image-segmentation"), find_task("image-classification")
    assert masked.digest(found) == plain.digest(alone) != plain.digest(None)


def test_without_nibabel_or_monai_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_volume(tmp_path / "v.nii", np.zeros((4, 4, 4), np.uint8))
    job = make_job(tmp_path)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UnreadableFileError, match=r"needs nibabel: pip install 'confide\[imaging\]'"):
        read_masked(path, path, labels=2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"needs MONAI: pip install 'confide\[imaging\]'"):
        adapt(job)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": {"size": 18}}, "data.size: expected"),
        ({"keys": {"range": [5.0, 5.0]}}, "data.range: expected a lower end, then a higher one"),
        ({"keys": {"labels": ["around"]}}, "data.labels: expected"),
        ({"keys": {"labels": ["a", "a"]}}, "labels: expected each once"),
        ({"keys": {"mask": "scan"}}, "mask: expected another column than path"),
        ({"federation": {"partition": {"column": "x"}}}, 'federation.partition: expected "iid"'),
        ({"model": {"source": "org/name"}}, 'model.source: expected "drawn"'),
    ],
)
def test_a_job_that_does_not_fit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as told:
        make_job(tmp_path, **changes)
    assert words in str(told.value)
