"""How far a run's last model can be trusted on held-out examples, as ``assessment.json``."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.durable import BY_UMASK, write_durably
from privacy.errors import RunError
from runs.run_folder import RunFolder
from tasks.certainty import Bin, Certainty
from tasks.region_distances import LabelDistance

FILE = "assessment.json"


@dataclass(frozen=True, kw_only=True)
class RegionMap:
    """Of a held-out image, or of the middle of a volume: ``mask``, ``answer`` and ``entropy``, uint8[h, w].

    The first two have labels by their number, the last one is 255 where all labels are as likely.
    """

    mask: NDArray[np.uint8]
    answer: NDArray[np.uint8]
    entropy: NDArray[np.uint8]

    @property
    def parts(self) -> dict[str, NDArray[np.uint8]]:
        return {"mask": self.mask, "answer": self.answer, "entropy": self.entropy}


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What the adapter after round ``last`` does, ``alone`` and ``together`` with those from ``first`` on.

    ``measures`` are the task's of all together but its loss, by name; like ``together`` they are not there
    where one adapter was asked for. ``distances`` are between edges of regions, by label, in ``unit``, and
    ``maps`` some of the regions, for tasks that have any: of the last adapter, but entropies are of all.
    """

    first: int
    last: int
    alone: Certainty
    together: Certainty | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    distances: Mapping[str, LabelDistance] = field(default_factory=dict)
    unit: str = ""
    maps: tuple[RegionMap, ...] = ()

    @property
    def table(self) -> dict[str, Any]:
        """All of it but maps, as JSON has it."""
        found = asdict(replace(self, maps=()))
        del found["maps"]
        for name in ("alone", "together"):
            certainty: Certainty | None = getattr(self, name)
            if certainty is not None:
                found[name]["calibration_error"] = certainty.calibration_error
        return found


def save_assessment(folder: RunFolder, found: Assessment) -> None:
    """Write a run's assessment down. It is of the coordinator's own examples, and leaves no site."""
    maps = [{name: _packed(part) for name, part in one.parts.items()} for one in found.maps]
    content = json.dumps(found.table | {"maps": maps}, indent=1, allow_nan=False)
    write_durably(folder.path / FILE, content.encode(), mode=BY_UMASK, flush=folder.flush)


def read_assessment(folder: RunFolder) -> Assessment | None:
    """A run's assessment, None if it has none. Raises RunError if it cannot be read."""
    path = folder.path / FILE
    if not path.exists():
        return None
    try:
        table = json.loads(path.read_bytes())
        return Assessment(
            first=int(table["first"]),
            last=int(table["last"]),
            alone=_certainty(table["alone"]),
            together=None if table["together"] is None else _certainty(table["together"]),
            measures={str(name): float(value) for name, value in table["measures"].items()},
            distances={label: LabelDistance(**one) for label, one in table["distances"].items()},
            unit=str(table["unit"]),
            maps=tuple(
                RegionMap(**{name: _unpacked(part) for name, part in one.items()}) for one in table["maps"]
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} cannot be read: {error!r}") from error


def _certainty(table: Mapping[str, Any]) -> Certainty:
    entropy, apart = table["entropy"], table["disagreement"]
    return Certainty(
        answers=int(table["answers"]),
        brier=float(table["brier"]),
        bins=tuple(Bin(**one) for one in table["bins"]),
        surest=tuple((float(share), float(error)) for share, error in table["surest"]),
        entropy=(entropy[0], entropy[1]),
        disagreement=None if apart is None else (apart[0], apart[1]),
        tells_errors=table["tells_errors"],
    )


def _packed(part: NDArray[np.uint8]) -> dict[str, Any]:
    return {"shape": list(part.shape), "bytes": b64encode(part.tobytes()).decode()}


def _unpacked(table: Mapping[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(b64decode(table["bytes"]), np.uint8).reshape(table["shape"])
