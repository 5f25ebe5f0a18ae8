"""Features that are centred and scaled by a folder of public files."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from privacy.errors import JobError
from protocol.job.first_and_last import check_features
from protocol.job.job import Job
from protocol.job.job_file import beside, job_toml, read_job_file
from protocol.job.layout import FEATURE_MEAN, FEATURE_SCALE
from runs.export import export_merged
from runs.run_folder import RunFolder
from server.public_features import _examples, _features
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tasks.data.image_files import IMAGES
from tests.tasks.model.test_head_alone import image_job

HEAD = "base_model.model.classifier"


def write_public(folder: Path, *, images: int = 110) -> Path:
    """Noise with a bright corner, in one folder, beside a file that is no image and one that is cut off."""
    random = np.random.default_rng(5)
    folder.mkdir(parents=True)
    for number in range(images):
        pixels = random.integers(0, 200, (16, 16, 3), np.uint8)
        pixels[:4, :4] += 50
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:60])
    return folder


def job(folder: Path, public: Path, **changes: Any) -> Job:
    made = image_job(folder, "ViT", **changes)
    return made.model_copy(update={"model": made.model.model_copy(update={"features": str(public)})})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("images")
    asked = job(place, write_public(place / "public"))
    return RunFolder.open(simulate(asked, runs=place / "runs", workers=1).folder)


@pytest.fixture(scope="module")
def world(run: RunFolder) -> World:
    return World(run.manifest.job)


def test_public_images_have_features_around_zero_of_one_width(world: World) -> None:
    adapted, place = world.adapted, str(world.job.model.features)
    found = adapted.layout.split(world.initial_adapter)
    adapted.load(world.initial_adapter)
    read = _examples(adapted, place)
    after = _features(adapted, read)[HEAD]
    adapted.features.put(adapted.features.at_first)
    before = _features(adapted, read)[HEAD]

    assert len(read) == 110
    np.testing.assert_allclose(found[HEAD + FEATURE_MEAN], before.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(after.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(after.std(axis=0), after.std(), rtol=1e-3)
    assert (found[HEAD + FEATURE_SCALE] != 1).any()


def test_a_merged_model_has_them_in_its_head(world: World, run: RunFolder, tmp_path: Path) -> None:
    export_merged(run, tmp_path / "merged")
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    adapted = world.adapted
    adapted.load(run.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype("float32"))
    with torch.no_grad():
        expected = adapted.task.logits(adapted.peft, values)
        found = merged(values).logits
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"model\.features: .*missing: expected a folder of images that end in .jpg"
    ):
        World(job(tmp_path / "a", tmp_path / "missing"))
    few = write_public(tmp_path / "few", images=99)
    with pytest.raises(
        JobError, match=r"few.*: expected 100 public examples that the model can read, got 99"
    ):
        World(job(tmp_path / "b", few))


@pytest.mark.parametrize("inside", ["", "above"])
def test_private_images_are_not_public(inside: str, tmp_path: Path) -> None:
    images = Path(image_job(tmp_path, "ViT").data.source)
    for place in (images / inside, images.parent):
        with pytest.raises(ValueError, match=r"model\.features: expected public data, got .* job's data"):
            check_features(job(tmp_path, place))
    check_features(job(tmp_path, images.parent / "public"))


@pytest.mark.parametrize("kind", ["copies", "links"])
def test_private_images_are_known_wherever_they_lie(kind: str, tmp_path: Path) -> None:
    public = write_public(tmp_path / "public", images=99)
    images = sorted(Path(image_job(tmp_path, "ViT").data.source).rglob("*.png"))
    for image in images[:12]:
        place = public / kind / f"{image.parent.name}-{image.name}"
        place.parent.mkdir(exist_ok=True)
        if kind == "links":
            place.symlink_to(image)
        else:
            Image.open(image).save(place.with_suffix(".tiff"))
    with pytest.raises(JobError, match="got 12 of 111 examples that are among the job's own"):
        World(job(tmp_path, public))
    for place in sorted((public / kind).iterdir())[:2]:
        place.unlink()
    assert World(job(tmp_path, public)).job.model.features  # a few may well be public


@pytest.mark.parametrize(
    ("place", "source", "refused"),
    [
        ("/", "/data/x", True),
        ("package:a/data", "package:a/data/x.csv", True),
        ("package:a/data", "package:a/database", False),
        ("package:a/data", "data", False),
    ],
)
def test_paths_are_compared_by_their_parts(place: str, source: str, refused: bool, tmp_path: Path) -> None:
    made = job(tmp_path, Path("x"))
    asked = made.model_copy(
        update={
            "model": made.model.model_copy(update={"features": place}),
            "data": made.data.model_copy(update={"source": source}),
        }
    )
    with pytest.raises(ValueError, match="expected public data") if refused else nullcontext():
        check_features(asked)


def test_a_folder_beside_the_jobs_file_is_meant(tmp_path: Path) -> None:
    made = job(tmp_path, Path("public"))
    (tmp_path / "job.toml").write_text(job_toml(made))
    assert read_job_file(tmp_path / "job.toml").model.features == "public"
    write_public(tmp_path / "public", images=1)
    assert read_job_file(tmp_path / "job.toml").model.features == str((tmp_path / "public").resolve())
    # Only from there it shows that the data are in it.
    with pytest.raises(JobError, match="expected public data"):
        beside(job(tmp_path, Path("images/../images")), tmp_path)


def test_hidden_files_and_what_lies_in_hidden_folders_are_left_out(tmp_path: Path) -> None:
    public = write_public(tmp_path / "public", images=3)
    pictures = sorted(public.rglob("*.png"))
    whole = len(IMAGES.read_folder(public))
    for name in (".checkpoints", "__MACOSX", "kept"):
        (public / name).mkdir()
        (public / name / "copy.png").write_bytes(pictures[0].read_bytes())
    (public / ".thumb.png").write_bytes(pictures[0].read_bytes())
    assert len(IMAGES.read_folder(public)) == whole + 1
    hidden = tmp_path / ".own" / "public"
    hidden.parent.mkdir()
    public.rename(hidden)
    assert len(IMAGES.read_folder(hidden)) == whole + 1  # where the folder lies is its owner's affair
