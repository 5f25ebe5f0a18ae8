"""Stages of a progression: jobs on one model, checked to fit one another before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import JobError
from protocol.job.job import SEED_MAX, ByColumn, Job
from protocol.job.job_file import parse_job
from protocol.job.stages_file import read_stages_file
from protocol.plain_text import quoted
from simulation.partition import partition
from tasks.data.rows import joined
from tasks.own_rows import read_own_column, read_own_sources
from tasks.registry import checked_job, read_job


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of the jobs, its ``share`` of the privacy loss, and how many examples each site has of it."""

    job: Job
    share: float | None
    examples: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Jobs in order, and what is promised to a unit that is in all of them, once in each."""

    name: str
    epsilon: float
    delta: float
    stages: tuple[Stage, ...]

    @property
    def protects(self) -> bool:
        """Whether there is any noise: all stages have some, or none has."""
        return self.stages[0].job.privacy.protects


def read_stages(path: Path, *, settings: Iterable[str] = ()) -> Stages:
    """Read a file of stages, its jobs and, for the sites' sizes, the jobs' data.

    ``settings`` are for all jobs, after each stage's own. Raises JobError for stages that do not fit one
    another or cannot be composed, and DataError.
    """
    file, asked = read_stages_file(path), tuple(settings)
    jobs = []
    for number, section in enumerate(file.stage, start=1):
        job = read_job(path.parent / section.job, settings=(*section.settings, *asked))
        for why in _refusals(job, first=number == 1):
            raise JobError(f"stage {number}, {section.job}: {why}")
        if number > 1:
            begun_with(job, Path("stage"))  # what does not go with a first adapter is told before any run
        jobs.append(_with_own_noise(job, number))
    _check_alike(jobs)
    stages = tuple(
        Stage(job=job, share=section.share, examples=site_sizes(job))
        for job, section in zip(jobs, file.stage, strict=True)
    )
    sites = list(stages[0].examples)
    for number, stage in enumerate(stages[1:], start=2):
        if list(stage.examples) != sites:
            raise JobError(
                "federation: expected the same sites in all stages, as a unit is at one site, got "
                f"{len(sites)} in stage 1 and {len(stage.examples)} in stage {number}: set "
                "federation.sites or federation.partition"
            )
    return Stages(name=file.name, epsilon=file.epsilon, delta=file.delta, stages=stages)


def site_sizes(job: Job) -> dict[str, int]:
    """How many examples each simulated site has, by its name, as a world of the job has it."""
    sources = read_own_sources(job)
    kind, groups = job.federation.partition, tuple[str, ...]()
    if isinstance(kind, ByColumn):
        groups = read_own_column(job, kind.column, key="federation.partition.column")
    parts = partition(job, joined(sources), groups=groups, counts=tuple(map(len, sources)))
    return {name: len(rows) for name, rows in parts.sites.items()}


def begun_with(job: Job, place: Path) -> Job:
    """The job, beginning with the adapter in that folder. Raises JobError for one that cannot."""
    table = job.model_dump(mode="json")
    table["training"]["warm_start"] = str(place)
    return checked_job(parse_job(table))


def _with_own_noise(job: Job, number: int) -> Job:
    """Noise that repeats is another in each stage, as it is where it does not."""
    if job.seeds.noise is None:
        return job
    seed = (job.seeds.noise + number - 1) % (SEED_MAX + 1)
    return job.model_copy(update={"seeds": job.seeds.model_copy(update={"noise": seed})})


def _check_alike(jobs: list[Job]) -> None:
    """Raises JobError unless all jobs train one adapter of one model and protect one unit."""
    first = jobs[0]
    for number, job in enumerate(jobs[1:], start=2):
        for section in ("model", "adapter"):
            if getattr(job, section) != getattr(first, section):
                raise JobError(
                    f"{section}: expected the same [{section}] in all stages, which train one adapter, got "
                    f"another in stage {number} than in stage 1"
                )
        for key in ("unit", "mechanism"):
            there, here = getattr(first.privacy, key), getattr(job.privacy, key)
            if there != here:
                raise JobError(
                    f'privacy.{key}: expected one in all stages, got "{there}" in stage 1 and "{here}" in '
                    f"stage {number}"
                )


def _refusals(job: Job, *, first: bool) -> Iterator[str]:
    """Why a job is no stage, or cannot be composed with others: a sentence each that names the key."""
    privacy = job.privacy
    if not first and job.training.warm_start is not None:
        yield (
            "training.warm_start: expected none after the first stage, which each later one begins with "
            f"what the one before it trained, got {quoted(job.training.warm_start)}"
        )
    if privacy.hides_sites:
        yield 'privacy.unit: expected "example" or "group" in stages, got "site"'
    if privacy.protects and privacy.mechanism != "gaussian":
        yield f'privacy.mechanism: expected "gaussian" in stages, got "{privacy.mechanism}"'
    if privacy.correlated:
        yield (
            f'privacy.noise_correlation: expected "none" in stages, got "{privacy.noise_correlation}": '
            "steps of one kind alone are composed so"
        )
    for key, asked, why in (
        ("phase", bool(job.phase), "each stage has noise of one kind: make a stage of each phase"),
        ("data.mix", bool(job.data.mix), "a source's examples are drawn at rates of their own"),
        ("federation.cohort", job.federation.cohort is not None, "sites drawn at times take fewer steps"),
        ("metrics.epsilon", job.metrics.epsilon > 0, "it would be spent beside what all stages promise"),
    ):
        if asked:
            yield f"{key}: expected none in stages: {why}"
