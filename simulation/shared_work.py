"""What simulated sites of one process would each work out to the same: done once for all of them."""

from __future__ import annotations

from client.planning import Plans, plan_here
from client.training.gradients import PerExampleGradients
from client.training.unit_check import check_privacy_unit
from protocol.job.manifest import Manifest
from tasks.data.examples import Examples


class SharedPlans:
    """A planner for sites that share a process: one plan for all that have as many examples and rounds."""

    def __init__(self) -> None:
        self._made: dict[tuple[bytes, int, int, int], Plans] = {}

    def __call__(self, manifest: Manifest, examples: int, update_size: int, rounds: int) -> Plans:
        """See ``client.planning.plan_here``; what it raises is raised anew for each site."""
        key = manifest.digest, examples, update_size, rounds
        if key not in self._made:
            self._made[key] = plan_here(manifest, examples, update_size, rounds)
        return self._made[key]


class SharedCheck:
    """The privacy-unit check for sites that share a model, which is all that it depends on."""

    def __init__(self) -> None:
        self._passed: set[PerExampleGradients] = set()

    def __call__(self, method: PerExampleGradients, examples: Examples) -> None:
        """See ``check_privacy_unit``; what failed is checked anew for each site."""
        if method not in self._passed:
            check_privacy_unit(method, examples)
            self._passed.add(method)
