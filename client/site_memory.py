"""What a site keeps of a run from round to round, and never sends: tensors of its own, its last steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from privacy.durable import make_private_folder, write_durably

log = logging.getLogger("confide.training")

Kept = Mapping[str, NDArray[np.float32]]
_BEFORE, _AFTER, _ROUND = "before/", "after/", "round"


class SiteMemory:
    """Arrays by name after a run's last round and before it, in one file; nothing of it is there unused.

    Rounds may be asked again: by a coordinator that was killed, or one that lost the answer. A round that
    is starts from what was kept before it, so that no step is taken twice. A round before the last one
    starts from nothing, as the first one does, and so does a site whose file is lost or damaged: that costs
    accuracy and no privacy. What is kept was made by steps that were charged (``client.local_round``), and
    the file is its owner's alone.
    """

    def __init__(self, path: Path, *, flush: bool = True) -> None:
        self._path = path
        self._flush = flush

    def before(self, round_number: int) -> Kept:
        """What was kept before a round: that of the last one before it that the site was in."""
        last, kept = self._read()
        if round_number < last:
            return {}
        prefix = _AFTER if round_number > last else _BEFORE
        return {name.removeprefix(prefix): array for name, array in kept.items() if name.startswith(prefix)}

    def newest(self) -> Kept:
        """What was kept last."""
        return self.before(self._read()[0] + 1)

    def keep(self, kept: Kept, *, round_number: int) -> None:
        """Keep what a round made in the place of what its last try made: durable when this returns."""
        before = self.before(round_number)
        tensors = {_BEFORE + name: array for name, array in before.items()}
        tensors |= {_AFTER + name: array for name, array in kept.items()}
        tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
        make_private_folder(self._path.parent, flush=self._flush)
        content = save(tensors | {_ROUND: np.array([round_number], np.int64)})
        write_durably(self._path, content, flush=self._flush)

    def _read(self) -> tuple[int, Kept]:
        """The last round that something is kept of, 0 for none, and all that is kept."""
        if not self._path.exists():
            return 0, {}
        try:
            tensors = load(self._path.read_bytes())
            return int(tensors.pop(_ROUND)[0]), tensors
        except (SafetensorError, KeyError, ValueError, IndexError) as error:
            log.warning("%s is damaged: the site begins anew: %s", self._path, error)
            return 0, {}
