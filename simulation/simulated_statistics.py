"""``confide.statistics``: a job's ``[statistics]`` asked of simulated sites, before anything is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection, read_policy
from client.statistics_site import CountedRows, StatisticsSite
from privacy.durable import BY_UMASK, write_durably
from privacy.errors import ConfideError, JobError, RunError, UserError
from privacy.identity import Identity
from privacy.mechanisms.counting import ONE
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.job import ByColumn, Job
from protocol.job.job_file import job_toml
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.job.statistics_section import StatisticsSection
from protocol.sums.sum_kinds import check_sums
from runs.progress import Progress, Silence
from runs.run import new_name
from runs.told_statistics import NoisyHistogram, Statistics
from simulation.booked_homes import has_released
from simulation.masked_counts import Summed, join_sites, sum_counts
from simulation.partition import partition
from tasks.asked_statistics import Asked, asked_of, places_of
from tasks.data.rows import joined
from tasks.own_rows import label_names, read_own_column, read_own_sources, read_validation_rows
from tasks.registry import checked_job, find_task, section_of

_SILENCE = Silence()
RESULT = "statistics.json"


@dataclass(frozen=True, kw_only=True)
class StatisticsRun:
    """A finished run of statistics: its folder, and what it tells.

    ::

        job.toml         the job, every key filled in
        statistics-manifest.json  what the sites agreed to
        coordinator.key  what the coordinator signed that with
        sites.json       the sites' public keys
        receipts/statistics.json  what each site signed that it cost
        statistics.json  what the sites counted together, with what noise may do
        sites/<name>/    a simulated site's home, with its ledger
    """

    folder: Path
    statistics: Statistics


def ask_statistics(
    job: Job,
    *,
    runs: Path = Path("confide-runs"),
    name: str | None = None,
    policy: Path | None = None,
    homes: Path | None = None,
    progress: Progress = _SILENCE,
) -> StatisticsRun:
    """Ask a job's ``[statistics]`` of simulated sites, which hold the rows that they would train on.

    No model is loaded but its tokenizer. ``policy`` and ``homes`` are as ``simulate`` takes them: without,
    each site allows just these statistics, and has a ledger of this run alone. Raises UserError for what
    the job's author can mend, and SiteError where too few sites answer: nothing is charged at a site that
    refuses.
    """
    job = checked_job(job)
    asked = job.statistics
    if asked is None:
        raise JobError(
            "statistics: missing; say what to count in [statistics], as docs/statistics.md shows"
        )
    progress.stage("Reading the data")
    histograms = asked_of(asked, section_of(job))
    counted = _deal(job, histograms)
    run = name or f"{new_name(job)}-statistics"
    manifest = _manifest(job, run, sites=len(counted))
    folder = runs / run
    if folder.exists():
        raise RunError(f"the run folder {folder} exists already: choose another --run-name")
    allowed = None if policy is None else read_policy(policy)
    try:
        coordinator = _begin(folder, manifest)
        peers: dict[str, bytes] = {}
        sites = _sites(job, folder, counted, peers, allowed, homes=homes, coordinator=coordinator)
        signature = coordinator.sign(MANIFEST_PURPOSE, manifest.content)
        progress.stage("Counting at the sites")
        able = join_sites(manifest, signature, sites)
        summed = sum_counts(manifest, able, bins=sum(one.size for one in histograms))
        for site in sites.values():
            site.close()
    except ConfideError as error:
        # What a refusal leaves in homes of their own stays there, and in the run's own it is worth keeping.
        spared = homes is None and error.exit_code != UserError.exit_code
        if not spared and not has_released(folder / "sites", run):
            shutil.rmtree(folder)
        raise
    keys = {name: peers[name].hex() for name in summed.receipts}
    return StatisticsRun(
        folder=folder, statistics=_written(folder, manifest, asked, histograms, summed, keys=keys)
    )


def _deal(job: Job, histograms: tuple[Asked, ...]) -> dict[str, CountedRows]:
    """The rows of each site as a training would deal them out, and each example's places."""
    task, section, asked = find_task(job.task), section_of(job), job.statistics
    if asked is None:
        raise JobError("statistics: expected a section that says what to count, got none")
    sources = read_own_sources(job)
    table = joined(sources)
    labels = label_names(table, declared=section.classes, held_out=read_validation_rows(job))
    kind = job.federation.partition
    groups: tuple[str, ...] = ()
    if isinstance(kind, ByColumn):
        groups = read_own_column(job, kind.column, key="federation.partition.column")
    parts = partition(job, table, groups=groups, counts=tuple(map(len, sources)))
    reader = task.open_reader(job.model.source, section)
    sizes = tuple(one.size for one in histograms)
    found = {}
    for name, chosen in parts.sites.items():
        rows = table.take(map(int, chosen))
        places = places_of(histograms, rows, reader=reader, task=task, labels=labels)
        digests = tuple(map(task.digest, rows.contents))
        found[name] = CountedRows(
            alias=job.data.alias, asked=asked, digests=digests, places=places, sizes=sizes
        )
    return found


def _manifest(job: Job, run: str, *, sites: int) -> Manifest:
    """The job made exact: all sites are asked at once, and nothing is said of a model or an adapter."""
    federation = job.federation.model_copy(update={"cohort": None, "weights": None})
    adapter = job.adapter.model_copy(update={"ranks": None})
    manifest = Manifest(
        run=run,
        job=job.model_copy(update={"federation": federation, "adapter": adapter}),
        cohort=sites,
        labels=section_of(job).classes,
        model_digest="",
        layout_digest="",
    )
    check_sums(manifest)
    return manifest


def _begin(folder: Path, manifest: Manifest) -> Identity:
    """The folder with what the run starts from, and the coordinator's key."""
    folder.mkdir(parents=True)
    for name, content in (
        ("job.toml", job_toml(manifest.job).encode()),
        ("statistics-manifest.json", manifest.content),
    ):
        write_durably(folder / name, content, mode=BY_UMASK, flush=False)
    return Identity.load_or_create(folder / "coordinator.key", flush=False)


def _sites(
    job: Job,
    folder: Path,
    counted: dict[str, CountedRows],
    peers: dict[str, bytes],
    policy: Policy | None,
    *,
    homes: Path | None,
    coordinator: Identity,
) -> dict[str, StatisticsSite]:
    """The sites at home; ``peers`` is filled with their public keys."""
    place = folder / "sites"
    if homes is not None:
        homes.mkdir(parents=True, exist_ok=True)
        place.symlink_to(homes.resolve())
    seed, found = job.seeds.noise, {}
    for name, rows in counted.items():
        home = Home(place / name, flush=homes is not None)
        if policy is not None or not home.has_policy:
            # Homes that outlast the run must not pin its coordinator: each run has a key of its own.
            pinned = None if homes is not None else coordinator.public
            home.write_policy(policy or _own_policy(job, pinned))
        peers[name] = home.identity().public
        found[name] = StatisticsSite(
            name=name,
            home=home,
            rows=rows,
            peers=lambda: peers,
            keyed=None if seed is None else keyed_entropy(seed, name),
        )
    return found


def _own_policy(job: Job, coordinator: bytes | None) -> Policy:
    """What a simulated site allows if nobody says otherwise: these statistics, once."""
    epsilon = 0.0 if job.statistics is None else job.statistics.epsilon
    rules = RulesSection(
        mechanisms=["gaussian"],
        coordinator=None if coordinator is None else coordinator.hex(),
        statistics_epsilon=epsilon,
    )
    return Policy(budget=BudgetSection(epsilon=epsilon, delta=2 * job.privacy.delta), rules=rules)


def _written(
    folder: Path,
    manifest: Manifest,
    asked: StatisticsSection,
    histograms: tuple[Asked, ...],
    summed: Summed,
    *,
    keys: dict[str, str],
) -> Statistics:
    """What the sum says, on the disk after the receipts for it.

    Each site adds the whole noise of its own guarantee: deviations add up in squares.
    """
    receipts = {name: receipt.read(bytes.fromhex(keys[name])) for name, receipt in summed.receipts.items()}
    std = float(np.sqrt(sum(receipt.plan.noise_std**2 for receipt in receipts.values())))
    starts = np.cumsum([one.size for one in histograms])[:-1]
    told = Statistics(
        run=manifest.run,
        epsilon=asked.epsilon,
        delta=manifest.job.privacy.delta,
        spent={name: receipt.epsilon for name, receipt in receipts.items()},
        histograms=tuple(
            NoisyHistogram(asked=one, counts=counts, std=std)
            for one, counts in zip(histograms, np.split(summed.counts / ONE, starts), strict=True)
        ),
    )
    kept = {
        name: {"content": receipt.content.decode(), "signature": receipt.signature.hex()}
        for name, receipt in summed.receipts.items()
    }
    (folder / "receipts").mkdir()
    for name, content in (
        ("sites.json", json.dumps(keys, indent=1).encode()),
        ("receipts/statistics.json", json.dumps(kept, indent=1).encode()),
        (RESULT, told.content),
    ):
        write_durably(folder / name, content, mode=BY_UMASK, flush=False)
    return told
