"""Rules that some sites cannot move far, whatever they send: by Flower's own arithmetic, over updates of B.

A is frozen, and so B alone is chosen among. Where A's rows are orthonormal, as they are drawn, the distance
of two sites' B is that of their products: whom Krum and Bulyan keep they would keep among whole products.
Numbers that are chosen each for itself (median, trimmed mean, Bulyan's last step) depend on A's basis.

Flower's strategies want messages, and so their functions alone are used. Which these are stands in
``protocol.processes.flower_aggregation``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from privacy.errors import RunError
from protocol.job.layout import AdapterLayout
from protocol.job.section import COHORT_MAX
from protocol.job.strategy import State
from strategies.frozen_a import FrozenA

if TYPE_CHECKING:
    from protocol.job.job import Job

_WANTED = "expected how many sites may send anything, 1 or more"
_BLOCK = 1 << 14  # numbers of each site that are chosen among at once: they stay in the processor's cache


class _Robust(FrozenA):
    """What they have in common: so many sites may be ``malicious``, of a least number that send updates."""

    malicious: Annotated[int, Field(le=COHORT_MAX, description="how many sites may send anything")] = 0
    linear: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    @field_validator("malicious")
    @classmethod
    def _some(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"{_WANTED}, got {value}")
        return value

    @property
    def least(self) -> int:
        """How many updates it takes to outweigh the malicious ones."""
        return 2 * self.malicious + 1

    def allows(self, job: Job) -> None:
        if job.aggregation.hidden or job.privacy.hides_sites:
            raise ValueError(
                f"strategy.name: \"{self.name}\" compares each site's update with the others', which takes "
                'more than their sum: expected aggregation.kind="none" and privacy.unit="example". Under '
                "masks, training.update_norm bounds the updates of sites that follow the protocol"
            )
        super().allows(job)
        if self.malicious < 1:
            raise ValueError(f'strategy.malicious: {_WANTED}, with strategy.name="{self.name}"')
        sites = job.federation.min_sites
        if sites is not None and sites < self.least:
            raise ValueError(
                f'federation.min_sites: expected {self.least} or more with "{self.name}" and '
                f"strategy.malicious={self.malicious}, got {sites}"
            )

    def merge(
        self,
        state: State,
        aggregate: NDArray[np.float32],
        layout: AdapterLayout,
        round_number: int,
    ) -> State:
        """The state after a round. Raises RunError if fewer sites answered than ``least``."""
        if self.malicious and len(aggregate) < self.least:
            raise RunError(
                f'round {round_number}: "{self.name}" with strategy.malicious={self.malicious} expects the '
                f"updates of {self.least} sites, got {len(aggregate)}: set "
                f"federation.min_sites={self.least}, or strategy.malicious lower"
            )
        return super().merge(state, self.combined(aggregate), layout, round_number)

    def combined(self, updates: NDArray[np.float32]) -> NDArray[np.float32]:
        """One update, float32[update_size], of each site's, float32[sites, update_size]."""
        raise NotImplementedError


class Krum(_Robust):
    """The one update that is closest to its n − f − 2 nearest. Source: Blanchard et al. 2017, section 4."""

    name: Literal["krum"] = "krum"
    paper: ClassVar[str] = "Blanchard et al. 2017, Krum (arXiv:1703.02757)"

    @property
    def least(self) -> int:
        return 2 * self.malicious + 3

    def combined(self, updates: NDArray[np.float32]) -> NDArray[np.float32]:
        (best,) = _chosen(updates, malicious=self.malicious, count=1)
        found: NDArray[np.float32] = updates[best]
        return found


class MultiKrum(_Robust):
    """The mean of the n − f updates that Krum puts first. Source: Blanchard et al. 2017, section 5."""

    name: Literal["multi_krum"] = "multi_krum"
    paper: ClassVar[str] = "Blanchard et al. 2017, Krum (arXiv:1703.02757)"

    @property
    def least(self) -> int:
        return 2 * self.malicious + 3

    def combined(self, updates: NDArray[np.float32]) -> NDArray[np.float32]:
        count = len(updates) - self.malicious
        chosen = sorted(_chosen(updates, malicious=self.malicious, count=count))
        return in_blocks(updates, lambda block: block[chosen].mean(axis=0, dtype=np.float64))


class Bulyan(_Robust):
    """Of n − 2f updates, which Krum chooses one by one, the mean of the n − 4f numbers next to the median.

    So no single number can be far off, as it can in an update that is near as a whole. Source: El Mhamdi
    et al. 2018, section 4.
    """

    name: Literal["bulyan"] = "bulyan"
    paper: ClassVar[str] = "El Mhamdi et al. 2018, Bulyan (arXiv:1802.07927)"

    @property
    def least(self) -> int:
        return 4 * self.malicious + 3

    def combined(self, updates: NDArray[np.float32]) -> NDArray[np.float32]:
        from protocol.processes.flower_aggregation import closest_mean, select_krum

        points, left = _points(updates), list(range(len(updates)))
        theta = len(updates) - 2 * self.malicious
        chosen = []
        for _ in range(theta):
            (best,) = select_krum([points[one] for one in left], malicious=self.malicious, count=1)
            chosen.append(left.pop(best))
        chosen.sort()
        beta = theta - 2 * self.malicious

        def middle(block: NDArray[np.float32]) -> NDArray[np.float32]:
            kept = block[chosen]
            return closest_mean(kept, to=np.median(kept, axis=0), count=beta)

        return in_blocks(updates, middle)


class TrimmedMean(_Robust):
    """Of each number, the mean without the f lowest and the f highest.

    Source: Yin et al. 2018, definition 2.
    """

    name: Literal["trimmed_mean"] = "trimmed_mean"
    paper: ClassVar[str] = "Yin et al. 2018, coordinate-wise trimmed mean (arXiv:1803.01498)"

    def combined(self, updates: NDArray[np.float32]) -> NDArray[np.float32]:
        from protocol.processes.flower_aggregation import trimmed_mean

        # Flower rounds share · n down; a quarter more than f is f, and under a half of 2f + 1 sites.
        share = (self.malicious + 0.25) / len(updates)
        return in_blocks(updates, lambda block: trimmed_mean(block.astype(np.float64), share=share))


class Median(_Robust):
    """Of each number, the median, as Flower's FedMedian takes it. Source: Yin et al. 2018, definition 1."""

    name: Literal["median"] = "median"
    paper: ClassVar[str] = "Yin et al. 2018, coordinate-wise median (arXiv:1803.01498)"

    def combined(self, updates: NDArray[np.float32]) -> NDArray[np.float32]:
        return in_blocks(updates, lambda block: np.median(block, axis=0))


def in_blocks(
    updates: NDArray[np.float32], rule: Callable[[NDArray[np.float32]], NDArray[np.floating]]
) -> NDArray[np.float32]:
    """What a rule that takes each number for itself makes of float32[sites, d]: float32[d]."""
    found = np.empty(updates.shape[1], np.float32)
    for start in range(0, len(found), _BLOCK):
        block = slice(start, start + _BLOCK)
        found[block] = rule(updates[:, block])
    return found


def _chosen(updates: NDArray[np.float32], *, malicious: int, count: int) -> list[int]:
    """The numbers of the updates that Krum puts first, best first."""
    from protocol.processes.flower_aggregation import select_krum

    return select_krum(list(_points(updates)), malicious=malicious, count=count)


def _points(updates: NDArray[np.float32]) -> NDArray[np.float64]:
    """As many points, float64[sites, sites], as far from one another as the updates are.

    Krum asks for distances alone, and Flower copies what it is given several times. Each update is scaled
    to length one first: one that is huge would leave nothing of the others but rounding.
    """
    gram = np.zeros((len(updates), len(updates)))
    for start in range(0, updates.shape[1], _BLOCK):
        block = updates[:, start : start + _BLOCK].astype(np.float64)
        gram += block @ block.T
    lengths = np.sqrt(np.diagonal(gram))
    inverse = 1.0 / np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh(inverse[:, None] * gram * inverse)
    found: NDArray[np.float64] = lengths[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))
    return found
