"""Volumes with masks: a gradient a volume or a cube, the public grid by hand, and files that are no use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from confide import audit_run
from privacy.errors import DataError, JobError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.data.volume_grid import VolumeGrid
from tasks.data.volume_patches import VolumeShape
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.registry import checked_job
from tests.tasks.exported import exported_network
from tests.tasks.networks import job_table
from tests.tasks.own_gradients import check_own_gradients
from tests.tasks.scans import SCANS, save_volume, write_scans, write_series

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
SITE = {key: value for key, value in SCANS.items() if key != "range"}
EXAMPLES = ("volume", "patch")
# Of thousands of voxels some are nearly 0 before a rectifier, where rounding decides about a slope.
KINKS = 1e-3


def make_job(folder: Path, *, keys: dict[str, Any] | None = None, **changes: Any) -> Job:
    table = write_scans(folder / "scans.csv")
    return checked_job(parse_job(job_table("volume-segmentation", table, SCANS | (keys or {}), **changes)))


def adapt(job: Job) -> AdaptedModel:
    return AdaptedModel(load_base_model(job, labels=(), device=CPU), job=job, device=CPU)


def read(folder: Path, rows: list[str], **keys: Any) -> DataSet:
    table = folder / "table.csv"
    table.write_text("scan,drawn\n" + "\n".join(rows) + "\n")
    source = DataSource(source=str(table), task="volume-segmentation", **SITE | keys)
    return read_data_set("scans", source)


def reader(*, whole: bool, extent: tuple[int, int, int] = (16, 16, 32), labels: int = 2) -> VolumeShape:
    grid = VolumeGrid(size=16, extent=extent, spacing=(1.0, 1.0, 1.0))
    return VolumeShape(grid=grid, whole=whole, labels=labels, low=0.0, high=255.0)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_gradient_of_what_is_protected_is_its_own(example: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, keys={"example": example})
    compared = check_own_gradients(lambda: adapt(job), within=KINKS)
    assert compared.method.batched
    assert compared.examples.rows_an_example == {"volume": 2, "patch": 1}[example]


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_loss_is_of_all_cubes_of_an_example_together(example: str, tmp_path: Path) -> None:
    adapted = adapt(make_job(tmp_path, keys={"example": example}))
    data = read(tmp_path, ["0.nii,0-mask.nii"], example=example)
    examples = data.examples(adapted, labels=())
    found = adapted.forward(examples.batch(np.arange(len(examples))))
    # The network begins at zero: each label of each voxel has half the probability.
    masks = examples.arrays["mask"].reshape(len(examples), -1)
    expected = []
    for mask in masks:
        counts = np.array([(mask == label).sum() for label in range(2)])
        dice = ((counts + 1) / (len(mask) / 2 + counts + 1)).mean()
        expected.append(1 - dice + 0.25 * np.log(2))
    assert found.losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert masks.sum() == 12**3
    assert len(expected) == {"volume": 1, "patch": 2}[example]


def test_volumes_are_trained_whole_under_masks_and_the_export_gives_the_same_logits(tmp_path: Path) -> None:
    training = {"rounds": 1, "local_steps": 1, "batch_size": 4, "physical_batch_size": 4, "ensemble": 2}
    job = make_job(tmp_path, training=training)
    run = simulate(job, runs=tmp_path / "runs")
    assert all(value is not None and value <= 8.0 for value in run.epsilon.values())
    audit_run(run.folder, ledgers=[run.folder / "sites" / "site-1"])

    assert run.measures.keys() == {"dice", "least_dice", "loss"}
    assert run.by_label.keys() == {"around", "cube"}
    cube = run.by_label["cube"]
    assert (cube.examples > 0, cube.f1) == (True, run.measures["dice"])
    assert run.assessment is not None
    assert (run.assessment.unit, run.assessment.together) == ("mm", None)  # there is one round
    assert run.assessment.alone.answers == sum(score.examples for score in run.by_label.values())
    assert run.assessment.alone.errors == pytest.approx(
        1 - sum(s.hits for s in run.by_label.values()) / run.assessment.alone.answers
    )
    assert run.assessment.distances["cube"].cases == run.assessment.alone.answers // 16**2 // 32
    assert '<th scope="col">Pixels or voxels</th>' in (run.folder / "report.html").read_text()

    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    adapted = adapt(job)
    adapted.load(folder.load_adapter(1, adapted.layout))
    adapted.peft.eval()
    pixels = torch.from_numpy(adapted.probe().arrays["values"][:, 0]).float() / 127.5 - 1
    expected = adapted.peft(pixels)
    assert expected.abs().max() > 0
    torch.testing.assert_close(exported_network(tmp_path / "merged")(pixels), expected)


def test_at_its_own_spacing_a_volume_is_cropped_and_filled_up_around_its_middle() -> None:
    values = np.arange(1, 4 * 6 * 5 + 1, dtype=np.float32).reshape(4, 6, 5)
    grid = VolumeGrid(size=1, extent=(6, 4, 5), spacing=(1.0, 1.0, 1.0))
    for nearest in (True, False):
        found = grid.placed(values, np.ones(3), nearest=nearest)
        assert np.array_equal(found[1:5], values[:, 1:5])
        assert not found[[0, 5]].any()
        assert found.dtype == np.float32


def test_another_spacing_becomes_the_public_one() -> None:
    # Voxels are 2 mm wide along x: a millimetre's middle is a quarter from one of theirs.
    values = np.broadcast_to(np.array([0, 8, 16, 4], np.float32)[:, None, None], (4, 2, 2)).copy()
    grid = VolumeGrid(size=2, extent=(8, 2, 2), spacing=(1.0, 1.0, 1.0))
    between = grid.placed(values, np.array([2.0, 1.0, 1.0]), nearest=False)
    assert between[:, 0, 0].tolist() == pytest.approx([0, 2, 6, 10, 14, 13, 7, 4])
    labels = grid.placed(values, np.array([2.0, 1.0, 1.0]), nearest=True)
    assert labels[:, 1, 1].tolist() == [0, 0, 8, 8, 16, 16, 4, 4]
    coarse = VolumeGrid(size=2, extent=(2, 2, 2), spacing=(4.0, 1.0, 1.0))
    assert coarse.placed(values, np.array([2.0, 1.0, 1.0]), nearest=False)[:, 0, 0].tolist() == [4, 10]


def test_cubes_are_cut_along_the_axes_the_last_one_first() -> None:
    grid = VolumeGrid(size=2, extent=(4, 2, 6), spacing=(1.0, 1.0, 1.0))
    values = np.arange(48).reshape(4, 2, 6)
    cubes = grid.cut(values)
    assert grid.patches == len(cubes) == 6
    assert np.array_equal(cubes[1], values[:2, :, 2:4])
    assert np.array_equal(cubes[3], values[2:, :, :2])


def test_numbers_beyond_the_range_and_none_at_all_are_its_ends(tmp_path: Path) -> None:
    values = np.zeros((16, 16, 32), np.float32)
    values[:, :, :5] = np.array([np.nan, -np.inf, np.inf, 300, 51])
    save_volume(tmp_path / "a.nii", values)
    save_volume(tmp_path / "m.nii", np.zeros(values.shape, np.uint8))
    data = read(tmp_path, ["a.nii,m.nii"])
    found = reader(whole=True).encode(data.rows.contents)["values"]
    assert found.shape == (1, 2, 1, 16, 16, 16)
    assert found[0, 0, 0, 3, 4, :6].tolist() == [0, 0, 255, 255, 51, 0]


def test_however_a_volume_is_turned_it_is_one_example(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 255, (16, 16, 32)).astype(np.int16)
    mask = (values > 100).astype(np.uint8)
    turned = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[0, 3] = 15
    for name, affine, way in (
        ("plain", np.eye(4), lambda of: of),
        ("turned", turned, lambda of: of[::-1]),
        # Its axes go to front, top and right.
        ("upright", np.eye(4)[:, [1, 2, 0, 3]], lambda of: of.transpose(1, 2, 0)),
    ):
        save_volume(tmp_path / f"{name}.nii", way(values), affine)
        save_volume(tmp_path / f"{name}-m.nii", way(mask), affine)
    names = ("plain", "turned", "upright")
    for example in EXAMPLES:
        data = read(tmp_path, [f"{name}.nii,{name}-m.nii" for name in names], example=example)
        assert len(set(data.digests)) == len(data) // 3
        found = reader(whole=example == "volume").encode(data.rows.contents)
        thirds = np.split(found["values"], 3)
        assert np.array_equal(thirds[0], thirds[1])
        assert np.array_equal(thirds[0], thirds[2])


def test_a_dicom_series_is_a_volume_whose_mask_is_drawn_elsewhere(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(500, 600, (4, 5, 6)).astype(np.uint16)
    write_series(tmp_path / "series", voxels)
    # In RAS the last column and row of a slice come first.
    affine = np.diag([0.5, 2.0, 3.0, 1.0])
    affine[:3, 3] = [10 - 3 * 0.5, 20 - 4 * 2.0, 5]
    mask = (voxels > 550).astype(np.uint8)[::-1, ::-1]
    save_volume(tmp_path / "m.nii", mask, affine)
    grid = {"extent": [16, 16, 16], "spacing": [0.5, 2.0, 3.0]}
    data = read(tmp_path, ["series,m.nii"], **grid)
    shape = VolumeShape(
        grid=VolumeGrid(size=16, extent=(16, 16, 16), spacing=(0.5, 2.0, 3.0)),
        whole=True,
        labels=2,
        low=0.0,
        high=255.0,
    )
    found = shape.encode(data.rows.contents)
    expected = np.clip(2 * voxels.astype(int) - 1000, 0, 255)[::-1, ::-1]
    assert np.array_equal(found["values"][0, 0, 0, 6:10, 6:11, 5:11], expected)
    assert np.array_equal(found["mask"][0, 0, 6:10, 6:11, 5:11], mask)
    affine[2, 3] += 3
    save_volume(tmp_path / "m.nii", mask, affine)
    with pytest.raises(DataError, match="'series' lies elsewhere than its mask"):
        read(tmp_path, ["series,m.nii"], **grid)


def test_a_wrong_number_in_a_mask_is_its_own_cubes_fault_or_its_volumes(tmp_path: Path) -> None:
    write_scans(tmp_path / "scans.csv", scans=2)
    mask = np.zeros((16, 16, 32), np.uint8)
    mask[3, 3, 20] = 9
    save_volume(tmp_path / "1-mask.nii", mask)
    rows = [f"{n}.nii,{n}-mask.nii" for n in range(2)]
    why = "'1.nii' has a mask with a number that no label is declared for"
    assert read(tmp_path, rows, example="patch").blank == {why: (3,)}
    data = read(tmp_path, rows)
    assert data.blank == {why: (1,)}
    examples = data.task.encode(reader(whole=True), data.rows, labels=()).examples
    assert examples.sizes.tolist() == [8, 0]
    assert not examples.arrays["values"][1].any()


def test_what_cannot_be_used_is_blank_and_says_why(tmp_path: Path) -> None:
    write_scans(tmp_path / "scans.csv", scans=1)
    zero = np.zeros((16, 16, 32), np.uint8)
    (tmp_path / "cut.nii").write_bytes((tmp_path / "0.nii").read_bytes()[:5000])
    (tmp_path / "head.nii").write_bytes(b"\x5c\x01\0\0" + (tmp_path / "0.nii").read_bytes()[4:200])
    (tmp_path / "text.nii.gz").write_text("no volume")
    (tmp_path / "image.png").write_text("no volume")
    (tmp_path / "nothing").mkdir()
    save_volume(tmp_path / "four.nii", zero[..., None])
    save_volume(tmp_path / "small.nii", zero[:8])
    save_volume(tmp_path / "far.nii", zero, np.diag([1.0, 1.0, 2.0, 1.0]))
    wide = np.diag([5000.0, 1.0, 1.0, 1.0])
    save_volume(tmp_path / "wide.nii", zero, wide)
    header = bytearray((tmp_path / "0.nii").read_bytes())
    header[280:328] = np.zeros(12, "<f4").tobytes()  # where voxels are: all in one place
    (tmp_path / "flat.nii").write_bytes(header)
    damaged = "is damaged, or was not written whole"
    said = {
        "0.nii,0-mask.nii": None,
        "cut.nii,0-mask.nii": f"'cut.nii' {damaged}",
        "head.nii,0-mask.nii": f"'head.nii' {damaged}",
        "text.nii.gz,0-mask.nii": f"'text.nii.gz' {damaged}",
        "0.nii,cut.nii": f"'0.nii' its mask {damaged}",
        "four.nii,0-mask.nii": "'four.nii' has 4 dimensions, expected 3",
        "image.png,0-mask.nii": "'image.png' is no NIfTI, and no folder with a DICOM series",
        "gone.nii,0-mask.nii": "'gone.nii' is not there",
        "0.nii,gone": "'0.nii' its mask is not there",
        "nothing,0-mask.nii": "'nothing' is a folder without DICOM files",
        "0.nii,small.nii": "'0.nii' has another size than its mask",
        "0.nii,far.nii": "'0.nii' lies elsewhere than its mask, as their headers say",
        "wide.nii,wide.nii": "'wide.nii' has voxels of another width than 0.001 to 1000 mm",
        "flat.nii,flat.nii": f"'flat.nii' {damaged}",
        ",0-mask.nii": "no content, or none that can be read",
    }
    expected: dict[str, tuple[int, ...]] = {}
    for row, why in enumerate(said.values()):
        if why is not None:
            expected[why] = (*expected.get(why, ()), row)
    assert read(tmp_path, list(said)).blank == expected
    cubes = read(tmp_path, list(said), example="patch")
    assert len(cubes) == 2 * len(said)  # how many there are says nothing of what can be read


def test_data_that_were_cut_otherwise_are_refused(tmp_path: Path) -> None:
    adapted = adapt(make_job(tmp_path))
    for keys in ({"example": "patch"}, {"extent": [16, 16, 16]}, {"spacing": [1.0, 1.0, 2.0]}):
        data = read(tmp_path, ["0.nii,0-mask.nii"], **keys)
        with pytest.raises(DataError, match="expected the example, size, extent and spacing"):
            data.examples(adapted, labels=())


def test_a_patch_cut_otherwise_is_another_example_and_a_volume_is_not(tmp_path: Path) -> None:
    write_scans(tmp_path / "scans.csv", scans=1)
    row = ["0.nii,0-mask.nii"]
    wide = {"spacing": [2.0, 1.0, 1.0]}
    assert read(tmp_path, row).digests == read(tmp_path, row, **wide).digests
    one, other = (set(read(tmp_path, row, example="patch", **keys).digests) for keys in ({}, wide))
    assert len(one) == 2
    assert not one & other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": {"size": 18}}, "data.size: expected"),
        ({"keys": {"extent": [16, 16, 40]}}, "extent: expected multiples of size"),
        ({"keys": {"extent": [16, 16]}}, "data.extent: expected"),
        ({"keys": {"extent": [80, 80, 80]}}, "extent: expected at most 64 patches in a volume"),
        ({"keys": {"spacing": [1.0, 1.0, 0.0]}}, "data.spacing"),
        ({"keys": {"range": [5.0, 5.0]}}, "data.range: expected a lower end, then a higher one"),
        ({"keys": {"example": "person"}}, "data.example: expected"),
        ({"federation": {"partition": {"column": "x"}}}, 'federation.partition: expected "iid"'),
        ({"model": {"source": "org/name"}}, 'model.source: expected "drawn"'),
    ],
)
def test_a_job_that_does_not_fit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as told:
        make_job(tmp_path, **changes)
    assert words in str(told.value)
