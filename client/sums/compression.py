"""Which numbers of an update a site sends in a round, and which wait for a later one."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.sums.residual import Residual
from protocol.job.manifest import Manifest
from protocol.sums.sparsification import Support
from protocol.sums.update_encoding import round_support

log = logging.getLogger("confide.training")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A round's numbers: those of ``vector``, float32[update_size], in ``support``; None for all."""

    vector: NDArray[np.float32]
    support: Support | None
    round_number: int

    @property
    def values(self) -> NDArray[np.float32]:
        """What is sent: float32[vector_size]."""
        return self.vector if self.support is None else self.support.take(self.vector)


class Compression:
    """The numbers of one run's updates on their way out, with what was not sent before."""

    def __init__(self, manifest: Manifest, *, update_size: int) -> None:
        self._manifest = manifest
        self._size = update_size
        compressed = manifest.job.compression.kind != "none"
        self._residual = Residual(update_size) if compressed else None

    def total(self, update: NDArray[np.float32], round_number: int) -> NDArray[np.float32]:
        """A round's update and what waited before it: float32[update_size]."""
        if self._residual is None:
            return update
        return self._residual.add(update, round_number=round_number)

    def choose(self, total: NDArray[np.float32], round_number: int) -> Chosen:
        """The part of a total that every site of the round sends."""
        support = round_support(self._manifest, update_size=self._size, number=round_number)
        return Chosen(vector=total, support=support, round_number=round_number)

    def sent(self, chosen: Chosen) -> None:
        """Let what was not chosen wait."""
        if chosen.support is not None:
            spread = chosen.support.spread(chosen.values)
            self.keep(chosen.vector - spread, chosen.round_number)

    def keep(self, rest: NDArray[np.float32], round_number: int) -> None:
        """Let what is left of a total wait: float32[update_size]."""
        if self._residual is not None:
            self._residual.keep(rest, round_number=round_number)


def finite_or_zero(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector of which only a sum is read, and which has no noise of its own; zero if it is not finite.

    To refuse would tell of this one. With noise in it there is nothing to hide.
    """
    if np.isfinite(vector).all():
        return vector
    log.warning("an update that is not finite counts as zero: lower training.learning_rate")
    return np.zeros_like(vector)
