"""What a report says of how sure the model is: curves, maps of regions, and how far these are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.job.job import Job
from runs.assessed_words import certainty_sentence, ensemble_title
from runs.assessment import Assessment
from runs.formats import format_percent
from runs.report.certainty_charts import map_chart, reliability_chart, selective_chart
from runs.run_folder import RoundRecord
from tasks.certainty import Certainty
from tasks.region_distances import LabelDistance
from tasks.registry import find_task


@dataclass(frozen=True, kw_only=True)
class AssessedSection:
    """``rows`` are the table's, by their heading, a column each title; charts are inline SVG, or empty."""

    titles: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    reliability: str
    selective: str
    maps: str
    sentence: str
    distances: Mapping[str, LabelDistance]
    unit: str


def assessed_section(found: Assessment | None) -> AssessedSection | None:
    """What is shown of an assessment; None without one."""
    if found is None:
        return None
    curves = {"the last adapter": found.alone}
    if found.together is not None:
        curves[ensemble_title(found)] = found.together
    return AssessedSection(
        titles=tuple(curves),
        rows=_rows(list(curves.values())),
        reliability=reliability_chart(curves),
        selective=selective_chart(curves),
        maps=map_chart(found.maps) if found.maps else "",
        sentence=certainty_sentence(found),
        distances=found.distances,
        unit=found.unit,
    )


def _rows(curves: Sequence[Certainty]) -> dict[str, tuple[str, ...]]:
    def each(write: Any) -> tuple[str, ...]:
        return tuple(write(one) for one in curves)

    return {
        "Calibration error": each(lambda one: format_percent(one.calibration_error)),
        "Brier score": each(lambda one: f"{one.brier:.4f}"),
        "Wrong of all answers": each(lambda one: format_percent(one.errors)),
        "Wrong of the surest half": each(lambda one: format_percent(dict(one.surest)[0.5])),
        "Entropy of right answers, nats": each(lambda one: _nats(one.entropy[0])),
        "Entropy of wrong answers, nats": each(lambda one: _nats(one.entropy[1])),
        "Mutual information, right, nats": each(lambda one: _nats((one.disagreement or (None,))[0])),
        "Mutual information, wrong, nats": each(lambda one: _nats((one.disagreement or (None,))[-1])),
        "A wrong answer is less sure than a right one": each(
            lambda one: "–" if one.tells_errors is None else format_percent(one.tells_errors)
        ),
    }


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def accuracy_interval(job: Job, records: Sequence[RoundRecord], facts: Mapping[str, Any]) -> float | None:
    """Half the 95 % interval of the accuracy, in points; None if predictions aren't independent.

    Agresti and Coull 1998: two successes and two failures more than were seen.
    """
    counted = facts.get("held_out_examples")
    main = find_task(job.task).measures[0]
    if not main.by_example or not records or not counted:
        return None
    share = (records[-1].measures[main.name] * counted + 2) / (counted + 4)
    return 196 * math.sqrt(share * (1 - share) / (counted + 4))
