"""What the coordinator finds out of a run's last model on its held-out examples, when the run is done."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.processes.time_spent import Part, timed
from runs.assessment import Assessment, RegionMap, read_assessment, save_assessment
from runs.run_folder import RunFolder
from server.evaluation import Evaluator
from tasks.certainty import CertaintyTally, Probable, entropy
from tasks.group_task import GroupOutcome
from tasks.mask_outcome import MaskOutcome
from tasks.region_distances import DistanceTally, LabelDistance
from tasks.task import Outcome, RegionTask

log = logging.getLogger("confide.rounds")

_MAPS = 3  # in a report
_SIDE = 96  # pixels of a map at most: every second or third one of more


@timed(Part.EVALUATION)
def keep_assessment(folder: RunFolder, layout: AdapterLayout, evaluator: Evaluator) -> None:
    """Assess a run's last adapters, as many as ``training.ensemble`` says, if any round has finished.

    Each of them has left the sites already, under their noise: what is computed of them is post-processing.
    Tasks whose answers have no probabilities are left alone.
    """
    count, rounds = folder.manifest.job.training.ensemble, len(folder.records())
    if not count or not rounds:
        return
    kept = read_assessment(folder)
    if kept is not None and kept.last == rounds:
        return
    first = max(1, rounds - count + 1)
    adapters = [folder.load_adapter(number, layout) for number in range(first, rounds + 1)]
    found = assess(evaluator, adapters, first=first)
    if found is not None:
        save_assessment(folder, found)
        log.info("held-out calibration error %.4f", found.alone.calibration_error)


def assess(
    evaluator: Evaluator, adapters: Sequence[NDArray[np.float32]], *, first: int
) -> Assessment | None:
    """What adapters after rounds from ``first`` on do, float32[adapter_size] each, alone and together.

    None for a task whose answers have no probabilities, and for an evaluator that has no examples.
    """
    several = len(adapters) > 1
    alone, together, sums = CertaintyTally(), CertaintyTally(), Counter[str]()
    regions: _Regions | None = None
    for outcomes in evaluator.outcomes(adapters):
        rows = [_rows(outcome) for outcome in outcomes]
        members = [row.told() for row in rows if isinstance(row, Probable)]
        if len(members) < len(rows):
            return None
        logs, truth = members[-1]
        alone.add([logs], truth)
        if several:
            logs = together.add([own for own, _ in members], truth)
            sums.update(rows[-1].given(logs).sums())  # type: ignore[attr-defined]  # is Probable
        regions = regions or _Regions(evaluator)
        regions.add(rows[-1], logs)
    if regions is None:
        return None
    measures = {one.name: one.of(sums) for one in evaluator.measures if several and one.name != "loss"}
    return Assessment(
        first=first,
        last=first + len(adapters) - 1,
        alone=alone.result(several=False),
        together=together.result(several=True) if several else None,
        measures=measures,
        distances=regions.distances,
        unit=regions.unit,
        maps=tuple(regions.maps),
    )


def _rows(outcome: Outcome) -> Outcome:
    """Of groups, the rows' outcome."""
    return outcome.rows if isinstance(outcome, GroupOutcome) else outcome


class _Regions:
    """Distances and maps of a task on regions; nothing of any other."""

    def __init__(self, evaluator: Evaluator) -> None:
        task = evaluator.task
        self._task = task if isinstance(task, RegionTask) else None
        self._reader = evaluator.reader
        self.maps: list[RegionMap] = []
        self.unit = "" if self._task is None else self._task.distance_unit
        spacing = () if self._task is None else self._task.spacing(self._reader)
        self._tally = DistanceTally(evaluator.labels, spacing=spacing)

    @property
    def distances(self) -> Mapping[str, LabelDistance]:
        return self._tally.result()

    def add(self, outcome: Outcome, logs: torch.Tensor) -> None:
        """The last adapter's answers, and log-probabilities, [places, labels], of all adapters together."""
        if self._task is None or not isinstance(outcome, MaskOutcome):
            return
        unsure = entropy(logs).reshape(outcome.masks.shape) / np.log(logs.shape[1])
        found = [
            self._task.regions(self._reader, _as_bytes(one))
            for one in (outcome.masks, outcome.logits.argmax(1), (255 * unsure).round())
        ]
        for parts in zip(*found, strict=True):
            mask, answer, _unsure = parts
            self._tally.add(answer, mask)
            if len(self.maps) < _MAPS and mask.any():
                small = [_small(part) for part in parts]
                self.maps.append(RegionMap(mask=small[0], answer=small[1], entropy=small[2]))


def _as_bytes(numbers: torch.Tensor) -> NDArray[np.uint8]:
    return numbers.detach().cpu().numpy().astype(np.uint8)


def _small(part: NDArray[Any]) -> NDArray[np.uint8]:
    """A part as an image, the middle of one with a third axis, with no more pixels than a report shows."""
    flat = part if part.ndim == 2 else part[:, :, part.shape[2] // 2].T[::-1]
    step = -(-max(flat.shape) // _SIDE)
    return np.ascontiguousarray(flat[::step, ::step])
