"""What simulated sites of one process would each work out to the same: done once for all of them."""

from __future__ import annotations

import math
from bisect import bisect_left

from client.planning import Plans, plan_here
from client.training.gradients import PerExampleGradients
from client.training.unit_check import check_privacy_unit
from protocol.job.manifest import Manifest
from tasks.data.examples import Examples


class SharedPlans:
    """A planner for sites that share a process: one plan for all that have as many examples and rounds.

    Plans of other sizes say where to look for a size's noise: what is found is what a site alone finds.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[bytes, int, int, int], Plans] = {}
        self._nearby: dict[tuple[bytes, int, int], _Multipliers] = {}

    def __call__(self, manifest: Manifest, examples: int, update_size: int, rounds: int) -> Plans:
        """See ``client.planning.plan_here``; what it raises is raised anew for each site."""
        key = manifest.digest, examples, update_size, rounds
        if key not in self._made:
            nearby = self._nearby.setdefault((manifest.digest, update_size, rounds), _Multipliers())
            made = plan_here(manifest, examples, update_size, rounds, near=nearby.guess(examples))
            self._made[key] = made
            if made.training.protects:
                nearby.add(examples, made.training.mechanism.multiplier)
        return self._made[key]


class _Multipliers:
    """Noise multipliers by number of examples, and guesses at others between them."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._logs: list[float] = []

    def add(self, examples: int, multiplier: float) -> None:
        place = bisect_left(self._sizes, examples)
        self._sizes.insert(place, examples)
        self._logs.insert(place, math.log(multiplier))

    def guess(self, examples: int) -> float:
        """The multiplier on the line through the two nearest sizes, in logarithms of both; 1 for none."""
        if not self._sizes or examples < 1:  # nothing is planned for nobody, and that is told there
            return 1.0
        place = min(max(bisect_left(self._sizes, examples), 1), len(self._sizes) - 1)
        if len(self._sizes) == 1:
            return math.exp(self._logs[0])
        (x0, x1), (y0, y1) = self._sizes[place - 1 : place + 1], self._logs[place - 1 : place + 1]
        slope = (y1 - y0) / math.log(x1 / x0)
        return math.exp(y0 + slope * math.log(examples / x0))


class SharedCheck:
    """The privacy-unit check for sites that share a model, which is all that it depends on."""

    def __init__(self) -> None:
        self._passed: set[PerExampleGradients] = set()

    def __call__(self, method: PerExampleGradients, examples: Examples) -> None:
        """See ``check_privacy_unit``; what failed is checked anew for each site."""
        if method not in self._passed:
            check_privacy_unit(method, examples)
            self._passed.add(method)
