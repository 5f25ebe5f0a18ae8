"""Drift: what two runs' adapters go by, on the same held-out examples, and where that has changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privacy.errors import UserError
from runs.attributions import Attributed, attribute, check_captum, name_of
from runs.run_base import load_run_base
from runs.run_folder import RunFolder
from tasks.model.adapted_model import AdaptedModel
from tasks.model.device import choose_device
from tasks.own_rows import encode_own_rows, read_own_rows


@dataclass(frozen=True, kw_only=True)
class PartShift:
    """How much a token, or a column, counts in the ``examples`` that have it: before and after.

    Each is the mean of its share of all that counts in an example, from 0 to 1.
    """

    part: str
    examples: int
    before: float
    after: float

    @property
    def shift(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What changed from one run's adapter to another's on so many ``examples``.

    ``parts`` are in order of how much importance moved to or from them over all examples. ``agreement`` is
    the mean cosine between the two adapters' shares of an example, 1 where they go by the same parts.
    ``changed`` counts examples with another answer, None for a task without labels. ``losses`` are in nats,
    of the first run and the second; ``gap`` is the largest error of an attribution, in nats.
    """

    first: str
    second: str
    examples: int
    agreement: float
    changed: int | None
    losses: tuple[float, float]
    gap: float
    parts: tuple[PartShift, ...]


def find_drift(first: RunFolder, second: RunFolder, data: Path) -> Drift:
    """Compare the newest adapters of two runs on the examples of a file with the columns of the job's data.

    Raises UserError for runs on different models, tasks or labels, without Captum and for tasks whose
    examples are neither tokens nor named numbers; DataError for a file that cannot be read.
    """
    check_captum()
    _check_comparable(first, second)
    if not data.is_file():
        raise UserError(f"--data: expected a file with held-out examples, got {data}")
    adapted, before = _attributed(first, data)
    _, after = _attributed(second, data)
    return Drift(
        first=first.manifest.run,
        second=second.manifest.run,
        examples=len(before),
        agreement=float(np.mean([_cosine(one, other) for one, other in zip(before, after, strict=True)])),
        changed=_changed(before, after),
        losses=(float(np.mean([one.loss for one in before])), float(np.mean([one.loss for one in after]))),
        gap=max(one.gap for one in (*before, *after)),
        parts=_shifts(before, after, adapted),
    )


def _attributed(folder: RunFolder, data: Path) -> tuple[AdaptedModel, list[Attributed]]:
    manifest = folder.manifest
    job = manifest.job
    base = load_run_base(manifest, files=folder.model_files)
    adapted = AdaptedModel(base, job=job, device=choose_device(job.device))
    place = job.data.model_copy(update={"source": str(data)})
    rows = read_own_rows(job.model_copy(update={"data": place}))
    examples = encode_own_rows(adapted, rows, np.arange(len(rows)), labels=manifest.labels, key="--data")
    return adapted, attribute(adapted, folder.newest_adapter(adapted.layout), examples)


def _check_comparable(first: RunFolder, second: RunFolder) -> None:
    one, other = first.manifest, second.manifest
    for what, got, wanted in (
        ("base model", other.model_digest[:16], one.model_digest[:16]),
        ("task", other.job.task, one.job.task),
        ("labels", ", ".join(other.labels), ", ".join(one.labels)),
    ):
        if got != wanted:
            raise UserError(
                f"expected two runs of the same {what}, got {wanted} in {one.run} and {got} in {other.run}"
            )


def _cosine(one: Attributed, other: Attributed) -> float:
    length = float(np.linalg.norm(one.shares) * np.linalg.norm(other.shares))
    return float(one.shares @ other.shares) / length if length > 0 else 1.0


def _changed(before: Sequence[Attributed], after: Sequence[Attributed]) -> int | None:
    pairs = [(one.answer, other.answer) for one, other in zip(before, after, strict=True)]
    return None if any(None in pair for pair in pairs) else sum(one != other for one, other in pairs)


def _shifts(
    before: Sequence[Attributed], after: Sequence[Attributed], adapted: AdaptedModel
) -> tuple[PartShift, ...]:
    """Every part's shift, that over all examples largest first; a token counts once in a text, whole."""
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for one, other in zip(before, after, strict=True):
        for part in np.unique(one.parts):
            here = one.parts == part
            found = sums[int(part)]
            found[0] += 1
            found[1] += float(one.shares[here].sum())
            found[2] += float(other.shares[here].sum())
    ordered = sorted(sums.items(), key=lambda item: (-abs(item[1][2] - item[1][1]), item[0]))
    return tuple(
        PartShift(
            part=name_of(adapted, part), examples=int(count), before=first / count, after=second / count
        )
        for part, (count, first, second) in ordered
    )
