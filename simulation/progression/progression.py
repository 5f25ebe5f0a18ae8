"""A progression: stages that run one after another, each from the adapter that the last one trained.

::

    stages.json       the jobs with their ε, the runs' names, and where sites have homes, if that was said
    stages.html       what each stage and all together have cost, and where their reports are
    <run>/            each stage's run, as any other (see runs.run_folder)
    adapters/<run>/   what the stage trained, as confide export writes it: there once the stage has ended
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from client.custody.policy import read_policy
from privacy.accounting.sampled_plan import SampledPlan
from privacy.durable import BY_UMASK, write_durably
from privacy.errors import RunError
from privacy.ledger.receipt import Receipt
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from protocol.job.stages_file import KEPT, is_stages_folder
from runs.export import export_adapter
from runs.progress import Progress
from runs.run import Run, new_name
from runs.run_folder import RunFolder
from simulation.progression.stage_noise import PlannedStages, composed
from simulation.progression.stages import begun_with
from simulation.progression.stages_page import StageSpent, render_stages
from simulation.simulate import resume, simulate
from simulation.simulated_run import Engine
from tasks.registry import checked_job

PAGE = "stages.html"


@dataclass(frozen=True, kw_only=True)
class KeptStage:
    """A stage as the folder has it: its job, and the name of its run."""

    job: Job
    run: str


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What stages have cost so far: each one by itself, and by site all together, None without noise."""

    stages: tuple[StageSpent, ...]
    together: Mapping[str, float | None]
    epsilon: float
    delta: float

    @property
    def highest(self) -> float | None:
        """The largest ε of all sites; None where one has no bound."""
        known = [value for value in self.together.values() if value is not None]
        return max(known, default=0.0) if len(known) == len(self.together) else None


class Progression:
    """Stages in their folder. Each runs once; one that was interrupted goes on at its last round."""

    def __init__(self, path: Path) -> None:
        if not is_stages_folder(path):
            raise RunError(f"{path} is no folder of stages: it has no {KEPT}")
        table = json.loads((path / KEPT).read_text("utf-8"))
        self.path = path
        self.name, self.epsilon, self.delta = table["name"], table["epsilon"], table["delta"]
        self.stages = tuple(
            KeptStage(job=checked_job(parse_job(one["job"])), run=one["run"]) for one in table["stages"]
        )
        self._policy, self._homes = (
            None if table[key] is None else Path(table[key]) for key in ("policy", "homes")
        )

    @classmethod
    def begin(
        cls, planned: PlannedStages, path: Path, *, policy: Path | None = None, homes: Path | None = None
    ) -> Progression:
        """Make the folder of new stages. ``policy`` and ``homes`` are as for ``simulate``, in all of them.

        Raises RunError if there is something already.
        """
        if path.exists():
            raise RunError(f"the folder {path} exists already: choose another --run-name")
        if policy is not None:
            read_policy(policy)  # what is wrong with it is told before anything is there
        table = {
            "name": planned.name,
            "epsilon": planned.epsilon,
            "delta": planned.delta,
            "policy": None if policy is None else str(policy.resolve()),
            "homes": None if homes is None else str(homes.resolve()),
            "stages": [
                {"run": new_name(one.job), "job": one.job.model_dump(mode="json")} for one in planned.stages
            ],
        }
        path.mkdir(parents=True)
        write_durably(path / KEPT, json.dumps(table, indent=1).encode(), mode=BY_UMASK)
        return cls(path)

    def adapter(self, number: int) -> Path:
        """What stage ``number``, from 0, has trained, as a PEFT folder; there once the stage has ended."""
        return self.path / "adapters" / self.stages[number].run

    def has_ended(self, number: int) -> bool:
        """Whether stage ``number``, from 0, has ended, and is not run again."""
        return self.adapter(number).exists()

    @property
    def left(self) -> tuple[int, ...]:
        """The stages that have not ended, from 0, in order."""
        return tuple(number for number in range(len(self.stages)) if not self.has_ended(number))

    def run(
        self,
        number: int,
        *,
        progress: Progress,
        engine: Engine = "inprocess",
        workers: int | None = None,
        compare: bool = False,
        profile: bool = False,
    ) -> Run:
        """Run stage ``number``, from 0, or go on with it; it begins with what the one before it trained.

        Options are those of ``simulate``, and it raises what that does.
        """
        stage, place = self.stages[number], self.path / self.stages[number].run
        if place.exists():
            run = resume(
                place, engine=engine, workers=workers, compare=compare, profile=profile, progress=progress
            )
        else:
            run = simulate(
                stage.job if not number else begun_with(stage.job, self.adapter(number - 1).resolve()),
                runs=self.path,
                name=stage.run,
                policy=self._policy,
                homes=self._homes,
                engine=engine,
                workers=workers,
                compare=compare,
                profile=profile,
                progress=progress,
            )
        export_adapter(RunFolder.open(place), self.adapter(number))
        write_durably(self.path / PAGE, render_stages(self.name, self.spent()).encode(), mode=BY_UMASK)
        return run

    def spent(self) -> Spent:
        """What the stages that have a run have cost, by what their sites have signed.

        All together is the exact composition of what each site has taken in each of them.
        """
        told, plans = [], dict[str, list[SampledPlan]]()
        for stage in self.stages:
            if not (self.path / stage.run).exists():
                continue
            receipts = _last_receipts(RunFolder.open(self.path / stage.run))
            epsilons = [receipt.epsilon for receipt in receipts.values()]
            known = [one for one in epsilons if one is not None]
            told.append(
                StageSpent(
                    name=stage.job.name,
                    task=stage.job.task,
                    run=stage.run,
                    epsilon=max(known, default=0.0) if len(known) == len(epsilons) else None,
                )
            )
            for site, receipt in receipts.items():
                if isinstance(receipt.plan, SampledPlan):
                    plans.setdefault(site, []).append(replace(receipt.plan, steps=receipt.taken))
        together = {
            site: composed(each) if all(plan.protects for plan in each) else None
            for site, each in sorted(plans.items())
        }
        return Spent(stages=tuple(told), together=together, epsilon=self.epsilon, delta=self.delta)


def _last_receipts(folder: RunFolder) -> dict[str, Receipt]:
    """What each site of a run signed last."""
    found: dict[str, Receipt] = {}
    keys = folder.public_keys
    for record in reversed(folder.records()):
        missing = record.present - found.keys()
        if missing:
            kept = folder.receipts(record.round)
            found |= {name: kept[name].read(keys[name]) for name in missing}
    return found
