"""Planning a run at a site: here, or in a process of its own that has limits and can be killed.

An agent has one thread for whoever asks, and seeking the noise for a stranger's numbers takes seconds. So
it asks a process that knows nothing but these numbers: ``python -m client.planning`` reads one line of
JSON, answers with one, and ends. It inherits no key, no data and no memory, and what it says is read as
data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.session import plan_training
from privacy.accounting.banded_plan import BandedPlan
from privacy.accounting.phased_plan import phases_of
from privacy.accounting.plan import Plan
from privacy.accounting.training_plan import TrainingPlan
from privacy.canonical import canonical_json
from privacy.durable import write_durably
from privacy.errors import PlanError, RunError
from privacy.ledger.entries import from_table, to_table
from protocol.job.manifest import VERSION, Manifest, read_manifest
from protocol.job.phases import uneven
from protocol.processes.time_spent import Part, timed
from protocol.sums.update_encoding import plan_for_site

log = logging.getLogger("confide.planning")

FILE = "plans.json"  # in a site's home: plans that were made, so that none is paid for twice
_KEPT = 64  # plans
_LONGEST = 500  # letters of what is told of numbers that no plan fits
# What a job is planned from. Runs that agree in these have one plan.
_PLANNED: Mapping[str, Any] = {
    "privacy": True,
    "training": {"local_steps", "batch_size", "personal_steps", "decay"},
    "phase": {"__all__": {"rounds", "local_steps", "batch_size", "share"}},
    "aggregation": True,
    "compression": True,
    "federation": {"min_sites"},
}
# What the process gets to see of this one's environment.
_INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
PLANNING = (sys.executable, "-P", "-m", "client.planning")


@dataclass(frozen=True, kw_only=True)
class Plans:
    """A run as one site accounts for it.

    ``plan`` is what its releases cost, ``training`` the noise that its local steps add.
    """

    plan: Plan
    training: TrainingPlan


# From a manifest, the number of examples at the site, the size of an update and the number of rounds that
# the plan is for; raises PlanError for none.
Planner = Callable[[Manifest, int, int, int], Plans]


@timed(Part.PLANS)
def plan_here(
    manifest: Manifest, examples: int, update_size: int, rounds: int, *, near: float = 1.0
) -> Plans:
    """Plan a run in this very process; ``near`` is a guess at the local steps' noise multiplier."""
    training = plan_training(manifest.job, examples, rounds=rounds, near=near)
    hiding = plan_for_site(manifest, update_size=update_size) if manifest.job.privacy.hides_sites else None
    return Plans(plan=hiding or training, training=training)


class PlanningProcess:
    """Plans each run in a process that ends after ``seconds`` and cannot have more than ``mib`` of memory.

    The last 64 plans are kept, in ``kept`` as well if that is given. Raises RunError, in the same words
    always, where the process found no plan within its limits. Used on one thread.
    """

    def __init__(
        self, *, seconds: float, mib: int, kept: Path | None = None, command: Sequence[str] = PLANNING
    ) -> None:
        self._seconds = seconds
        self._mib = mib
        self._path = kept
        self._command = list(command)
        self._answers: dict[str, dict[str, Any]] = _read(kept)

    def __call__(self, manifest: Manifest, examples: int, update_size: int, rounds: int) -> Plans:
        if not manifest.job.privacy.protects:
            return plan_here(manifest, examples, update_size, rounds)  # nothing is sought
        key = _key(manifest, examples, update_size, rounds)
        kept = self._answers.get(key)
        plans = None if kept is None else _plans(kept, manifest, rounds)
        if plans is None:
            answer = self._ask(manifest, examples, update_size, rounds)
            self._keep(key, answer)
            plans = _plans(answer, manifest, rounds)
        if plans is None:
            log.warning("run %s: planning came to a plan that the job did not ask for", manifest.run)
            raise _beyond()
        return plans

    def _ask(self, manifest: Manifest, examples: int, update_size: int, rounds: int) -> dict[str, Any]:
        question = {
            "seconds": self._seconds,
            "mib": self._mib,
            "manifest": manifest.content.decode(),
            "examples": examples,
            "update_size": update_size,
            "rounds": rounds,
        }
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        # Each thread of these libraries would set aside memory of its own.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(  # noqa: S603  # our own command
                self._command,
                input=canonical_json(question),
                capture_output=True,
                timeout=self._seconds,
                cwd="/",
                env=environment,
                check=False,
            )
            answer = json.loads(done.stdout) if done.returncode == 0 else None
        except (subprocess.TimeoutExpired, OSError, ValueError, RecursionError) as error:
            log.warning("run %s: planning failed: %s", manifest.run, type(error).__name__)
            raise _beyond() from error
        if not isinstance(answer, dict):
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][-_LONGEST:]
            log.warning("run %s: planning ended with status %d: %s", manifest.run, done.returncode, said)
            raise _beyond()
        return answer

    def _keep(self, key: str, answer: dict[str, Any]) -> None:
        self._answers[key] = answer
        while len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]
        if self._path is not None and "refused" not in answer:
            made = {key: one for key, one in self._answers.items() if "refused" not in one}
            # A plan that is not kept is made again.
            with suppress(OSError):
                write_durably(self._path, canonical_json(made), mode=0o600)


def _beyond() -> RunError:
    return RunError(
        "the site cannot plan this job within its limits: ask for fewer steps, or for a smaller "
        "privacy.epsilon; the site's own log says more"
    )


def _key(manifest: Manifest, examples: int, update_size: int, rounds: int) -> str:
    numbers = {
        "version": VERSION,
        "job": manifest.job.model_dump(mode="json", include=_PLANNED),
        "cohort": manifest.cohort,
        "examples": examples,
        "update_size": update_size,
        "rounds": rounds,
    }
    return hashlib.sha256(canonical_json(numbers)).hexdigest()


def _read(path: Path | None) -> dict[str, dict[str, Any]]:
    """The plans that a file keeps; none if it is not there or damaged, as they can be made again."""
    if path is None or not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
        return {str(key): dict(one) for key, one in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        log.warning("%s is damaged: plans are made again", path)
        return {}


def _plans(answer: dict[str, Any], manifest: Manifest, rounds: int) -> Plans | None:
    """An answer as plans; None if they are not what was asked for. Raises PlanError for a refusal."""
    if isinstance(answer.get("refused"), str):
        raise PlanError(answer["refused"][:_LONGEST])
    privacy = manifest.job.privacy
    try:
        plans: Plans = from_table(Plans, answer)
    except (ValueError, TypeError, AttributeError, RecursionError, PlanError):
        return None
    plan = plans.plan
    asked = (privacy.mechanism, privacy.unit, privacy.delta, privacy.bound)
    found = (plan.mechanism.name, plan.unit, plan.delta, plan.clipping_norm)
    # The ledger computes this ε in any case, and it is composed within bounds.
    steps = manifest.job.planned_steps(rounds)
    bands = plans.training.bands if isinstance(plans.training, BandedPlan) else 1
    if bands != (privacy.bands or (bands if privacy.correlated else 1)):
        return None
    lengths = [phase.training.total_steps for phase in manifest.job.phases] * uneven(manifest.job)
    if [phase.steps for phase in phases_of(plan)] != lengths:
        return None
    if found != asked or plan.steps != steps or plan.epsilon > privacy.epsilon:
        return None
    # Where examples are hidden, what is charged is the noise that steps add.
    if not privacy.hides_sites and plans.training != plan:
        return None
    return plans


def main() -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    _limit(seconds=question["seconds"], mib=question["mib"])
    try:
        plans = plan_here(
            read_manifest(question["manifest"].encode()),
            question["examples"],
            question["update_size"],
            question["rounds"],
        )
        answer = to_table(plans)
    except PlanError as error:
        answer = {"refused": str(error)}
    sys.stdout.buffer.write(canonical_json(answer))


def _limit(*, seconds: float, mib: int) -> None:
    """Limit this process, for good. Processor time too: nobody kills it if the agent itself is killed."""
    limits = {resource.RLIMIT_CPU: int(seconds) + 1}
    if sys.platform == "linux":  # elsewhere the system knows no such limit, or does not keep it
        limits[resource.RLIMIT_AS] = mib << 20
    for kind, wanted in limits.items():
        _, most = resource.getrlimit(kind)
        allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (allowed, allowed))


if __name__ == "__main__":
    main()
