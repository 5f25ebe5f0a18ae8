"""What a run keeps beside its last adapter: an average of those that were released, or a shrunk one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.errors import RunError
from protocol.job.layout import AdapterLayout
from runs.peft_form import load_tensors, save_tensors
from runs.run_folder import RunFolder

Kind: TypeAlias = Literal["none", "polyak", "ema"]
Shrink: TypeAlias = Literal["none", "norm", "singular"]

_FOLDER = "average"
SCORE = "average.json"  # beside an average: what it is
# What of an exponential average stays in each round; in the first ones less, so that it forgets them.
_STAYS = 0.9


@dataclass(frozen=True, kw_only=True)
class AveragedAdapter:
    """What was averaged: the adapters after rounds ``first`` to ``last``, and how that did, held-out.

    Of ``kind`` "none" it is the last one alone. How it was shrunk, ``shrink`` says.
    """

    kind: Kind
    first: int
    last: int
    loss: float
    measures: Mapping[str, float]
    shrink: Shrink = "none"

    @property
    def words(self) -> str:
        """What a reader is told that it is."""
        if self.kind == "none":
            return f"The adapter after round {self.last}{self._shrunk}"
        how = "The mean" if self.kind == "polyak" else "The exponential moving average"
        return f"{how} of the adapters after rounds {self.first} to {self.last}{self._shrunk}"

    @property
    def _shrunk(self) -> str:
        if self.shrink == "none":
            return ""
        what = "singular values" if self.shrink == "singular" else "norms"
        return f", with the {what} of its change shrunk by how much of them known noise explains"


def average_weights(kind: Kind, rounds: int) -> NDArray[np.float64]:
    """What each round's adapter weighs in the average after so many, float64[rounds]; they add up to 1.

    ``none`` is the last alone, ``polyak`` the mean over the last half of the rounds (Rakhlin et al. 2012,
    arXiv:1109.5647, section 5), ``ema`` an exponential moving average whose decay begins low (De et al.
    2022, arXiv:2204.13650, appendix C.1): min(0.9, (1 + t) / (10 + t)) in round t.
    """
    weights = np.zeros(rounds)
    if kind == "none":
        weights[-1] = 1.0
        return weights
    if kind == "polyak":
        weights[rounds // 2 :] = 1.0 / (rounds - rounds // 2)
        return weights
    weights[0] = 1.0
    for number in range(2, rounds + 1):
        stays = min(_STAYS, (1 + number) / (10 + number))
        weights[: number - 1] *= stays
        weights[number - 1] = 1.0 - stays
    return weights


def average_rounds(
    folder: RunFolder, layout: AdapterLayout, *, kind: Kind, rounds: int
) -> NDArray[np.float32]:
    """The average of the adapters after each of so many rounds: float32[adapter_size], added in float64."""
    total = np.zeros(layout.adapter_size)
    for number, weight in enumerate(average_weights(kind, rounds), start=1):
        if weight:
            total += weight * folder.load_adapter(number, layout)
    return total.astype(np.float32)


def save_average(
    folder: RunFolder, layout: AdapterLayout, adapter: NDArray[np.float32], about: AveragedAdapter
) -> None:
    """Keep an average beside the rounds' adapters, as a PEFT folder, and say what it is."""
    final, partial = folder.path / _FOLDER, folder.path / f".{_FOLDER}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        shutil.copy(folder.path / "adapter_config.json", partial / "adapter_config.json")
        begun = None
        if folder.manifest.job.adapter.changes_base:
            begun = layout.split(folder.load_adapter(0, layout))
        save_tensors(partial, layout.split(adapter), begun=begun)
        (partial / SCORE).write_text(json.dumps(asdict(about)))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_average(folder: RunFolder, layout: AdapterLayout) -> NDArray[np.float32]:
    """The average that a run has kept: float32[adapter_size]. Raises FileNotFoundError."""
    return layout.join(load_tensors(averaged_path(folder)))


def averaged_path(folder: RunFolder) -> Path:
    """Where a run keeps its average, as a PEFT folder, if it has one."""
    return folder.path / _FOLDER


def read_average(folder: RunFolder) -> AveragedAdapter | None:
    """What a run has kept of an average; None for nothing. Raises RunError if it cannot be read."""
    path = averaged_path(folder) / SCORE
    try:
        return AveragedAdapter(**json.loads(path.read_text())) if path.exists() else None
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
