"""Canaries that are whole sites: each sends a random direction, or nothing, in place of what it trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.training.training import Trainer
from simulation.attack.canaries import OVERLONG
from tasks.data.examples import Examples


@dataclass(frozen=True, kw_only=True)
class SiteCanaries:
    """Sites of which those that are ``present``, by name, send a direction of their own in each round.

    A direction is drawn anew for each site and round, among all of ``size`` numbers: two are nearly
    orthogonal, so that no site hides another. What is sent is ``OVERLONG`` times the clipping ``norm``:
    clipping has to act.

    Source: Andrew et al. 2024 (arXiv:2302.03098), section 3.
    """

    present: Mapping[str, bool]
    size: int
    norm: float
    seed: int

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(sorted(self.present))}

    def direction(self, site: str, round_number: int) -> NDArray[np.float64]:
        """A unit vector, float64[size]."""
        drawn = np.random.default_rng([self.seed, self._numbers[site], round_number]).standard_normal(
            self.size
        )
        return np.asarray(drawn / np.linalg.norm(drawn), np.float64)

    def sent(self, site: str, round_number: int) -> NDArray[np.float32]:
        """What a site sends: float32[size]; zeros where it is not present, which is a blank site's."""
        if not self.present[site]:
            return np.zeros(self.size, np.float32)
        return (OVERLONG * self.norm * self.direction(site, round_number)).astype(np.float32)


class DirectionTrainer(Trainer):
    """Trains nothing: what it gives for a round is what ``canaries`` have for its ``site``."""

    def __init__(self, plain: Trainer, canaries: SiteCanaries, *, site: str) -> None:
        super().__init__(plain.gradients)
        self._canaries, self._site = canaries, site
        self.rounds: set[int] = set()

    def train(
        self,
        adapter: NDArray[np.float32],  # noqa: ARG002 - whatever it begins with
        examples: Examples,  # noqa: ARG002
        *,
        round_number: int,
        **_asked: Any,
    ) -> NDArray[np.float32]:
        """See ``Trainer.train``."""
        self.rounds.add(round_number)
        return self._canaries.sent(self._site, round_number)
