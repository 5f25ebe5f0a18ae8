"""What a coordinator's folder tells about its server, its sites and its runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privacy.errors import ConfideError
from runs.best_round import has_stopped
from runs.open_folder import open_folder
from runs.run_state import is_coordinated, read_state
from runs.spent import highest_epsilon
from runs.statistics_folder import StatisticsFolder
from server.provisioning.authority import format_day, valid_until
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.flower_cli import FlowerCli, FlowerNode
from server.service.nodes import bare_key, read_nodes
from server.service.server import serving_proxy


@dataclass(frozen=True, kw_only=True)
class SiteStatus:
    """A site: connected, away, never seen, not registered, revoked, or unknown without a server.

    ``since`` is when that began, in UTC as Flower writes it, if it knows.
    """

    site: str
    state: str
    since: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run: its state as server.run_state has it, or interrupted, unknown or unreadable.

    ``done`` of ``rounds`` are finished, and ``reason`` is why it failed, or what it waits for. ``epsilon``
    is that of the site that it cost most; None before the first round, or without a bound.
    """

    run: str
    state: str
    done: int = 0
    rounds: int = 0
    epsilon: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """Everything. Certificates are by file name, with the day that they stop to hold, in ISO 8601.

    ``proxy`` is the one that serves, nginx or embedded, or none; None while no server runs.
    """

    federation: str
    address: str
    running: bool
    proxy: str | None
    sites: list[SiteStatus]
    certificates: dict[str, str]
    runs: list[RunStatus]


def read_status(folder: CoordinatorFolder) -> ServerStatus:
    """Ask the SuperLink, if one runs, and read the rest from disk. Raises RunError if it is silent."""
    federation, proxy = folder.federation, serving_proxy(folder)
    running = proxy is not None
    return ServerStatus(
        federation=federation.name,
        address=federation.address,
        running=running,
        proxy=proxy,
        sites=_sites(folder, running=running),
        certificates={
            path.name: format_day(valid_until(path))
            for path in (folder.server_certificate, folder.authority_certificate)
        },
        runs=[_run(path) for path in sorted(folder.runs.glob("[!.]*")) if path.is_dir()],
    )


def _sites(folder: CoordinatorFolder, *, running: bool) -> list[SiteStatus]:
    listed = FlowerCli(folder.flower_home).nodes() if running else []
    flower = {node.id: node for node in listed if not node.unregistered}
    found = []
    for name, site in folder.federation.sites.items():
        key = bare_key(site.node)
        own = (flower.get(node.id) for node in read_nodes(folder.flower_home) if node.key == key)
        node = next(filter(None, own), None)
        if site.revoked:
            found.append(SiteStatus(site=name, state="revoked"))
        elif not running:
            found.append(SiteStatus(site=name, state="unknown"))
        else:
            found.append(_seen(name, node))
    return found


def _seen(name: str, node: FlowerNode | None) -> SiteStatus:
    if node is None:
        return SiteStatus(site=name, state="not registered")
    if node.status == "online":
        return SiteStatus(site=name, state="connected", since=node.online_since)
    if node.online_since is None:
        return SiteStatus(site=name, state="never seen")
    return SiteStatus(site=name, state="away", since=node.offline_since or node.online_since)


def _statistics(folder: StatisticsFolder) -> RunStatus:
    """The same of a run of statistics, which has one round."""
    told, done = read_state(folder), folder.finished
    state: str = told.state if told else "unknown"
    if done:
        state = "finished"
    elif state == "running" and not is_coordinated(folder):
        state = "interrupted"
    spent = folder.statistics.spent.values() if done else ()
    return RunStatus(
        run=folder.path.name,
        state=state,
        done=int(done),
        rounds=1,
        epsilon=max((one for one in spent if one is not None), default=None),
        reason=(told.reason or told.doing) if told and not done else "",
    )


def _run(path: Path) -> RunStatus:
    try:
        folder = open_folder(path)
        if isinstance(folder, StatisticsFolder):
            return _statistics(folder)
        records, rounds = folder.records(), folder.manifest.job.training.rounds
        metrics = folder.metrics
        told = read_state(folder)
        over = len(records) >= rounds or has_stopped(folder.manifest.job, records)
        state: str = told.state if told else ("finished" if over else "unknown")
        if state == "running" and not is_coordinated(folder):
            state = "interrupted"
    except (ConfideError, OSError) as error:
        return RunStatus(run=path.name, state="unreadable", reason=str(error))
    return RunStatus(
        run=path.name,
        state=state,
        done=len(records),
        rounds=rounds,
        epsilon=highest_epsilon(records, metrics),
        reason=(told.reason or told.doing) if told else "",
    )
