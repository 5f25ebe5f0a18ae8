"""What is assessed at a run's end: the last adapter alone, several together, and regions in space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from confide.terminal import closing_lines
from privacy.errors import JobError, RunError
from protocol.job.strategy import State
from runs.assessment import FILE, Assessment, read_assessment, save_assessment
from runs.report.report import render_report
from runs.run import finished
from runs.run_folder import RunFolder
from server.assess_run import assess, keep_assessment
from server.evaluation import Evaluator, Unscored
from tasks.data.image_files import ImageShape
from tasks.data.mask_files import MaskedShape
from tasks.data.volume_grid import VolumeGrid
from tasks.data.volume_patches import VolumeShape
from tasks.group_task import GroupOutcome
from tasks.label_outcome import CLASSIFIER, LabelOutcome
from tasks.mask_outcome import MaskOutcome
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.registry import find_task
from tasks.task import Outcome
from tests.models import CASES, random_adapter
from tests.server.runs import LAYOUT, make_job, make_record, make_run

TRUTH = torch.tensor([0, 1, 1])


def labelled(adapter: np.ndarray) -> Outcome:
    """Of three examples, probabilities of the first label that are an adapter's first numbers."""
    share = torch.tensor(adapter[:3], dtype=torch.float64)
    return LabelOutcome.of(torch.stack([share, 1 - share], dim=-1).log().float(), TRUTH)


class Makes:
    """An evaluator that makes outcomes of adapters by a function, in one batch."""

    def __init__(self, make: Any = labelled, *, task: str = "tabular", **known: Any) -> None:
        self.make = make
        self.asked = 0
        self.task, self.measures = find_task(task), find_task(task).measures
        self.reader, self.labels = known.get("reader"), known.get("labels", ("a", "b"))

    def outcomes(self, adapters: Sequence[np.ndarray]) -> Any:
        self.asked += 1
        yield [self.make(adapter) for adapter in adapters]


ADAPTERS = [np.array(one, np.float32) for one in ([0.9, 0.4, 0.6, 0.0], [0.5, 0.6, 0.2, 0.0])]


def known(found: Assessment | None) -> Assessment:
    assert found is not None
    return found


def found_by(evaluator: Any, adapters: Sequence[np.ndarray], first: int = 1) -> Assessment | None:
    return assess(evaluator, adapters, first=first)


def test_the_last_adapter_stands_alone_and_all_are_averaged() -> None:
    found = known(found_by(Makes(), ADAPTERS, first=4))
    assert (found.first, found.last) == (4, 5)
    assert found.alone.brier == pytest.approx(2 * (0.5**2 + 0.6**2 + 0.2**2) / 3)
    mean = (0.7, 0.5, 0.4)
    together = found.together
    assert together is not None
    assert together.brier == pytest.approx(2 * (0.3**2 + 0.5**2 + 0.4**2) / 3)
    assert together.disagreement is not None
    assert found.measures.keys() == {measure.name for measure in CLASSIFIER} - {"loss"}
    assert found.measures["brier"] == pytest.approx(together.brier)
    assert found.measures["calibration_error"] == pytest.approx(together.calibration_error)
    assert len(mean) == together.answers
    assert not found.distances


def test_one_adapter_has_nobody_to_differ_from() -> None:
    found = known(found_by(Makes(), ADAPTERS[-1:]))
    assert (found.together, found.measures, found.alone.disagreement) == (None, {}, None)


def test_groups_are_assessed_by_their_rows() -> None:
    def grouped(adapter: np.ndarray) -> Outcome:
        rows = labelled(adapter)
        return GroupOutcome(
            losses=rows.losses[:1], correct=rows.correct[:1], counted=rows.counted[:1], rows=rows
        )

    assert found_by(Makes(grouped), ADAPTERS) == found_by(Makes(), ADAPTERS)


def test_what_has_no_probabilities_is_left_alone() -> None:
    def plain(_adapter: np.ndarray) -> Outcome:
        ones = torch.ones(3, dtype=torch.long)
        return Outcome(losses=ones.float(), correct=ones, counted=ones)

    assert found_by(Makes(plain), ADAPTERS) is None
    assert found_by(Unscored(), ADAPTERS) is None


def test_a_real_models_brier_score_is_that_of_its_rounds_and_copies_agree() -> None:
    case = CASES["bert-qv-head"]
    adapted, examples = case.adapted(), case.examples()
    kept = Activations(FrozenPrefix(adapted), examples)
    evaluator = Evaluator(adapted, examples, kept, labels=("a", "b", "c"))
    adapter = random_adapter(adapted)
    found = known(found_by(evaluator, [adapter, adapter]))
    scored = evaluator.score(adapter).measures
    assert found.alone.brier == pytest.approx(scored["brier"])
    assert found.alone.calibration_error == pytest.approx(scored["calibration_error"])
    assert found.measures == pytest.approx({name: scored[name] for name in found.measures})
    assert found.together is not None
    assert found.together.disagreement == pytest.approx((0.0, 0.0), abs=1e-12)
    other = known(found_by(evaluator, [adapter, adapter + np.float32(0.1)])).together
    assert other is not None
    assert max(other.disagreement or ()) > 0


def masked(answer: np.ndarray, mask: np.ndarray) -> MaskOutcome:
    """An answer that is nearly certain, [b, …]."""
    numbers = torch.from_numpy(answer.astype(np.int64))
    logits = 20.0 * torch.nn.functional.one_hot(numbers, 2).movedim(-1, 1).float()
    return MaskOutcome.of(logits, torch.from_numpy(mask.astype(np.int64)))


def test_an_images_distances_are_in_pixels_and_what_is_unsure_is_bright() -> None:
    mask, answer = np.zeros((2, 2, 16, 16), np.uint8)  # of the second case neither has the label
    mask[0, 4:8, 4:12], answer[0, 7:11, 4:12] = 1, 1

    def make(adapter: np.ndarray) -> Outcome:
        return masked(answer if adapter[0] else mask, mask)

    shape = MaskedShape(image=ImageShape(size=16, colours=False), labels=2, low=0.0, high=255.0)
    evaluator = Makes(make, task="image-segmentation", reader=shape, labels=("around", "square"))
    found = known(found_by(evaluator, [np.zeros(1), np.ones(1)]))
    assert found.unit == "pixels"
    assert found.distances.keys() == {"square"}
    assert found.distances["square"].mean == pytest.approx(3.0)
    assert found.distances["square"].cases == 1
    (shown,) = found.maps
    assert np.array_equal(shown.mask, mask[0])
    assert np.array_equal(shown.answer, answer[0])
    # Each of the two is sure of something else where they differ, and of the same elsewhere.
    assert shown.entropy[4:7, 4:12].min() == 255
    assert shown.entropy[0].max() == 0


def test_a_volumes_cubes_are_put_together_and_its_distances_are_in_millimetres() -> None:
    grid = VolumeGrid(size=16, extent=(16, 16, 48), spacing=(1.0, 1.0, 2.5))
    mask, answer = np.zeros((2, 16, 16, 48), np.uint8)
    # Over the border of two cubes, and moved by four voxels of 2.5 mm.
    mask[2:10, 2:10, 12:20], answer[2:10, 2:10, 16:24] = 1, 1
    assert np.array_equal(grid.joined(grid.cut(mask)[None])[0], mask)

    def make(_adapter: np.ndarray) -> Outcome:
        cubes = [grid.cut(one).reshape(1, -1, 16, 16) for one in (answer, mask)]
        return masked(*cubes)

    shape = VolumeShape(grid=grid, whole=True, labels=2, low=0.0, high=255.0)
    evaluator = Makes(make, task="volume-segmentation", reader=shape, labels=("around", "cube"))
    found = known(found_by(evaluator, [np.ones(1)]))
    assert found.unit == "mm"
    assert found.distances["cube"].mean == pytest.approx(10.0)
    assert found.maps[0].mask.shape == (16, 16)


def run_of(path: Path, *, rounds: int, **training: Any) -> RunFolder:
    folder = make_run(path, make_job(training={"rounds": 9, **training}), records=[])
    for number in range(1, rounds + 1):
        state = State(adapter=np.append(ADAPTERS[number % 2][:3], number).astype(np.float32))
        folder.finish_round(make_record(number), LAYOUT, state)
    return folder


def kept_by(folder: RunFolder, evaluator: Any) -> Assessment | None:
    keep_assessment(folder, LAYOUT, evaluator)
    return read_assessment(folder)


@pytest.mark.parametrize(("ensemble", "first"), [(1, 3), (2, 2), (9, 1)])
def test_the_last_adapters_are_kept_once_and_anew_when_a_run_goes_on(
    ensemble: int, first: int, tmp_path: Path
) -> None:
    folder, evaluator = run_of(tmp_path / "run", rounds=3, ensemble=ensemble), Makes()
    found = known(kept_by(folder, evaluator))
    assert (found.first, found.last) == (first, 3)
    assert (found.together is None) == (ensemble == 1)
    again = kept_by(folder, evaluator)
    assert again == found
    assert evaluator.asked == 1
    folder.finish_round(
        make_record(4), LAYOUT, State(adapter=np.append(ADAPTERS[0][:3], 4).astype("float32"))
    )
    assert known(kept_by(folder, evaluator)).last == 4


@pytest.mark.parametrize(("ensemble", "rounds"), [(0, 2), (1, 0)])
def test_nothing_is_kept_that_nobody_asked_for_or_that_is_not_there(
    ensemble: int, rounds: int, tmp_path: Path
) -> None:
    evaluator = Makes()
    assert kept_by(run_of(tmp_path / "run", rounds=rounds, ensemble=ensemble), evaluator) is None
    assert not evaluator.asked


def test_a_number_of_adapters_that_is_none_is_refused() -> None:
    with pytest.raises(JobError, match=r"training\.ensemble"):
        make_job(training={"ensemble": -1})


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", rounds=1)
    (folder.path / FILE).write_text("{}")
    with pytest.raises(RunError, match=r"assessment\.json cannot be read"):
        read_assessment(folder)


def test_report_terminal_and_json_tell_of_it(tmp_path: Path) -> None:
    mask, answer = np.zeros((2, 1, 16, 16), np.uint8)
    mask[0, 4:8, 4:12], answer[0, 7:11, 4:12] = 1, 1
    shape = MaskedShape(image=ImageShape(size=16, colours=False), labels=2, low=0.0, high=255.0)
    evaluator: Any = Makes(
        lambda adapter: masked(answer if adapter[0] else mask, mask),
        task="image-segmentation",
        reader=shape,
        labels=("around", "<b>square"),
    )
    folder = run_of(tmp_path / "run", rounds=2)
    found = known(found_by(evaluator, [np.zeros(1), np.ones(1)]))
    save_assessment(folder, found)
    kept = known(read_assessment(folder))
    assert kept.table == found.table
    assert kept.maps[0].entropy.tolist() == found.maps[0].entropy.tolist()
    assert found.table["alone"]["calibration_error"] == found.alone.calibration_error

    page = render_report(folder)
    assert render_report(folder) == page
    for words in (
        'id="certainty"',
        "Right answers by confidence",
        "Wrong answers among the surest",
        "The last 2 together",
        "in pixels",
        "&lt;b&gt;square</th><td>1</td><td>3.00</td>",
        "data:image/png;base64,",
    ):
        assert words in page
    lines = closing_lines(finished(folder, seconds=1.0))
    assert "Hausdorff distance (95 %, mean over cases) in pixels: <b>square 3.00" in lines
    assert any(line.startswith("confidence is off by ") for line in lines)
    assert "certainty" not in render_report(make_run(tmp_path / "other"))
