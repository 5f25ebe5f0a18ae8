"""``confide.statistics``: a job's ``[statistics]`` asked of simulated sites, before anything is trained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection, read_policy
from client.host import LocalData
from client.open_home import OpenHome
from client.statistics_site import CountableRows, StatisticsSite
from privacy.errors import ConfideError, UserError
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.job import ByColumn, Job
from protocol.job.manifest import Manifest
from runs.progress import Progress, Silence
from runs.run import new_name
from runs.statistics_folder import StatisticsFolder, StatisticsRun
from server.statistics_round import check_asked, count_at_sites, statistics_manifest
from simulation.booked_homes import has_released
from simulation.grid import InProcessGrid
from simulation.local_post import OpenPost
from simulation.partition import partition
from tasks.data.rows import joined
from tasks.own_rows import label_names, read_own_column, read_own_sources, read_validation_rows
from tasks.registry import checked_job, find_task, section_of

_SILENCE = Silence()


@dataclass(frozen=True, kw_only=True)
class _DealtRows:
    """The host of a simulated site, which has the rows that it would train on."""

    alias: str
    members: tuple[bytes, ...]
    countable: CountableRows

    def find_data(self, manifest: Manifest) -> LocalData:  # noqa: ARG002 - there are no others
        return self

    def open_rows(self, manifest: Manifest) -> CountableRows:  # noqa: ARG002
        return self.countable


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
    check_asked(job)
    progress.stage("Reading the data")
    dealt = _deal(job)
    run = name or f"{new_name(job)}-statistics"
    manifest = statistics_manifest(job, run=run, sites=len(dealt))
    allowed = None if policy is None else read_policy(policy)
    folder = StatisticsFolder.create(runs / run, manifest=manifest, flush=False)
    try:
        sites = _sites(folder, dealt, allowed, homes=homes)
        progress.stage("Counting at the sites")
        names = dict(enumerate(sites, start=1))
        grid = InProcessGrid({node: sites[name].answer for node, name in names.items()})
        count_at_sites(OpenPost(grid, names=names), folder)
        for site in sites.values():
            site.own.close()
    except ConfideError as error:
        # What a refusal leaves in homes of their own stays there, and in the run's own it is worth keeping.
        spared = homes is None and error.exit_code != UserError.exit_code
        if not spared and not has_released(folder.path / "sites", run):
            shutil.rmtree(folder.path)
        raise
    return folder.run()


def _deal(job: Job) -> dict[str, _DealtRows]:
    """The rows of each site, as a training would deal them out."""
    task, section = find_task(job.task), section_of(job)
    sources = read_own_sources(job)
    table = joined(sources)
    labels = label_names(table, declared=section.classes, held_out=read_validation_rows(job))
    kind = job.federation.partition
    groups: tuple[str, ...] = ()
    if isinstance(kind, ByColumn):
        groups = read_own_column(job, kind.column, key="federation.partition.column")
    parts = partition(job, table, groups=groups, counts=tuple(map(len, sources)))
    reader = task.open_reader(job.model.source, section)
    found = {}
    for name, chosen in parts.sites.items():
        rows = table.take(map(int, chosen))
        found[name] = _DealtRows(
            alias=job.data.alias,
            members=tuple(map(task.digest, rows.contents)),
            countable=CountableRows(rows=rows, reader=reader, labels=labels),
        )
    return found


def _sites(
    folder: StatisticsFolder, dealt: Mapping[str, _DealtRows], policy: Policy | None, *, homes: Path | None
) -> dict[str, StatisticsSite]:
    """The sites at home, by name."""
    place, job = folder.path / "sites", folder.manifest.job
    if homes is not None:
        homes.mkdir(parents=True, exist_ok=True)
        place.symlink_to(homes.resolve())
    # Homes that outlast the run must not pin its coordinator: each run has a key of its own.
    pinned = None if homes is not None else folder.identity.public
    seed, peers, found = job.seeds.noise, dict[str, bytes](), {}
    for name, host in dealt.items():
        home = Home(place / name, flush=homes is not None)
        if policy is not None or not home.has_policy:
            home.write_policy(policy or _own_policy(job, pinned))
        own = OpenHome(home, site=name)
        peers[name] = own.identity().public
        found[name] = StatisticsSite(
            own=own,
            host=host,
            peers=lambda: peers,
            keyed_entropy=None if seed is None else keyed_entropy(seed, name),
            forgetful=True,
            candid=True,
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
