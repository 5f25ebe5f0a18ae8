"""What a coordinator tells monitoring, read from its folder whenever it is asked.

The one label that people choose is the name of a run, and only runs that go on have it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from privacy.errors import ConfideError
from runs.asked_folder import AskedFolder
from runs.open_folder import open_folder
from runs.run_folder import RunFolder
from runs.run_state import is_coordinated, read_state
from server.provisioning.authority import valid_until
from server.provisioning.coordinator_folder import CoordinatorFolder

_STATES = ("waiting", "running", "finished", "stopped", "failed", "interrupted", "unknown", "unreadable")
_PREFIX = "confide_coordinator_"


class FolderMetrics(Collector):
    """The metrics of a coordinator's folder: its runs, its sites, its certificates."""

    def __init__(self, folder: CoordinatorFolder) -> None:
        self._folder = folder

    def registry(self) -> CollectorRegistry:
        """A registry with these metrics and no others."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Read the folder. What cannot be read is missing, and counts as unreadable where it is a run."""
        yield from self._certificates()
        yield from self._sites()
        counts: Counter[str] = Counter()
        going_on = _GoingOn()
        for path in sorted(self._folder.runs.glob("[!.]*")):
            if not path.is_dir():
                continue
            try:
                folder = open_folder(path)
                state = run_state(folder)
                if state == "running" and isinstance(folder, RunFolder):
                    going_on.add(folder)
            except (ConfideError, OSError):
                state = "unreadable"
            counts[state] += 1
        runs = GaugeMetricFamily(f"{_PREFIX}runs", "Runs, by state.", labels=["state"])
        for state in _STATES:
            runs.add_metric([state], counts[state])
        yield runs
        yield from going_on.families

    def _certificates(self) -> Iterator[GaugeMetricFamily]:
        ends = GaugeMetricFamily(
            f"{_PREFIX}certificate_expiry_timestamp_seconds",
            "When a certificate ends, since 1970.",
            labels=["file"],
        )
        for path in (self._folder.server_certificate, self._folder.authority_certificate):
            try:
                ends.add_metric([path.name], valid_until(path).timestamp())
            except ConfideError:
                continue
        yield ends

    def _sites(self) -> Iterator[GaugeMetricFamily]:
        try:
            number = len(self._folder.federation.active_sites)
        except ConfideError:
            return
        yield GaugeMetricFamily(f"{_PREFIX}sites", "Sites that are not revoked.", value=number)


def run_state(folder: AskedFolder) -> str:
    """How far a run has come, in one word. Raises RunError if it cannot be read."""
    told = read_state(folder)
    if told is None:
        return "unknown"
    return "interrupted" if told.state == "running" and not is_coordinated(folder) else told.state


class _GoingOn:
    """The metrics of the runs that go on now."""

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily] = {}
        for name, text, *labels in (
            ("round", "The last finished round of a run that goes on."),
            ("rounds", "How many rounds it is to have."),
            ("last_round_timestamp_seconds", "When its last round was finished, or it began, since 1970."),
            ("last_round_seconds", "What its last round took."),
            ("last_round_training_seconds", "Of that, until enough sites had answered."),
            ("absent_sites", "Sites that joined and are not in its last round."),
            ("bytes", "What its finished rounds have sent to sites and received from them.", "direction"),
            ("epsilon", "ε that it has cost a site; +Inf without a bound.", "site"),
        ):
            self._families[name] = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=["run", *labels])

    @property
    def families(self) -> Iterable[GaugeMetricFamily]:
        return self._families.values()

    def add(self, folder: RunFolder) -> None:
        """Raises RunError or OSError before anything is added."""
        run, records = folder.path.name, folder.records()
        rounds, since = folder.manifest.job.training.rounds, (folder.path / "rounds.jsonl").stat().st_mtime
        self._add("round", run, value=len(records))
        self._add("rounds", run, value=rounds)
        self._add("last_round_timestamp_seconds", run, value=since)
        self._add("bytes", run, "up", value=sum(record.bytes_up for record in records))
        self._add("bytes", run, "down", value=sum(record.bytes_down for record in records))
        if records:
            last = records[-1]
            self._add("last_round_seconds", run, value=last.seconds)
            self._add("last_round_training_seconds", run, value=last.training_seconds)
            self._add("absent_sites", run, value=len(last.absent))
            metrics = folder.metrics
            own = {} if metrics is None else dict(metrics.spent)
            for site, epsilon in (last.epsilon | own).items():
                self._add("epsilon", run, site, value=math.inf if epsilon is None else epsilon)

    def _add(self, name: str, *labels: str, value: float) -> None:
        self._families[name].add_metric(labels, value)
