"""Where a round of a real federation spends its time: what each part's log says, put in order.

Flower's log has no times, so lines are stamped as they appear; the coordinator's own log has its times.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from processes import children, find_below

LOOK = 0.02  # seconds between two looks; every stamp is late by at most this
STAGES = (
    "waits for the SuperNode's poll",
    "message pulled over TLS",
    "SuperExec's poll",
    "process starts, Flower imported",
    "relay imported, agent called",
    "agent: waits and trains",
    "reply pushed to the SuperNode",
    "reply pushed over TLS",
    "coordinator pulls and opens it",
)
TRAINING = STAGES.index("agent: waits and trains")

_TOLD = {
    "Receiving: train message": "pulling",
    "Received successfully": "pulled",
    "Start `flwr-clientapp` process": "imported",
    "Sending: train message": "pushing",
    "Sent successfully": "pushed",
}
_TIME = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*"
_ANSWERED = re.compile(r"run (\S+), round \d+, request (\d+): answered after ([\d.]+) s")
_ARRIVED = re.compile(_TIME + r"round (\d+): (\S+) answered request (\d+) after ([\d.]+) s")


class Watch(threading.Thread):
    """Stamps what SuperNodes say, and when the processes that they start begin, and how long they compute.

    ``supernodes`` and ``agents`` are the logs by site, ``relays`` the process of each site's supervisor.
    """

    def __init__(
        self, supernodes: Mapping[str, Path], agents: Mapping[str, Path], relays: Mapping[str, int]
    ) -> None:
        super().__init__(daemon=True)
        self.events: dict[str, list[tuple[str, float]]] = {site: [] for site in supernodes}
        # By site, run and request: when the agent answered, and after how many seconds.
        self.answered: dict[tuple[str, str, int], tuple[float, float]] = {}
        self.processor: dict[int, float] = {}  # seconds of each ClientApp process, as last seen
        self._logs = {site: _Tail(path) for site, path in supernodes.items()}
        self._agents = {site: _Tail(path) for site, path in agents.items()}
        self._relays = dict(relays)
        self._seen: set[int] = set()
        self._executors: dict[str, int] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(LOOK):
            now = time.time()
            for site, log in self._logs.items():
                self._look_at_processes(site)
                for line in log.read():
                    self.events[site] += [(name, now) for words, name in _TOLD.items() if words in line]
            for site, log in self._agents.items():
                for line in log.read():
                    if match := _ANSWERED.search(line):
                        self.answered[site, match[1], int(match[2])] = (now, float(match[3]))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _look_at_processes(self, site: str) -> None:
        """SuperNode, then SuperExec, then a ClientApp process for each message."""
        if site not in self._executors:
            found = find_below(self._relays[site], "flower-superexec")
            if not found:
                return
            self._executors[site] = found[0]
        for pid in children(self._executors[site]):
            times = _times(pid)
            if times is None:
                continue
            began, self.processor[pid] = times
            if pid not in self._seen:
                self._seen.add(pid)
                self.events[site].append(("started", began))


@dataclass
class _Tail:
    path: Path
    _read: int = 0
    _rest: str = ""

    def __post_init__(self) -> None:
        self._read = self.path.stat().st_size if self.path.exists() else 0

    def read(self) -> list[str]:
        if not self.path.exists() or self.path.stat().st_size <= self._read:
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        self._read += len(content)
        *lines, self._rest = (self._rest + content.decode(errors="replace")).split("\n")
        return lines


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request to one site: its times, in the order of STAGES and one more, seconds since 1970."""

    site: str
    round: int
    times: tuple[float, ...]
    training: float  # seconds, as the agent's log says

    @property
    def stages(self) -> list[float]:
        """Seconds for each of STAGES."""
        return [end - begin for begin, end in zip(self.times, self.times[1:], strict=False)]


@dataclass(kw_only=True)
class Exchanges:
    """All requests of a run, and those whose log lines did not fit together."""

    complete: list[Exchange] = field(default_factory=list)
    torn: int = 0

    def slowest(self) -> list[Exchange]:
        """Of each round the site that answered last: the one that the round waited for."""
        last: dict[int, Exchange] = {}
        for exchange in self.complete:
            known = last.get(exchange.round)
            if known is None or exchange.times[-1] > known.times[-1]:
                last[exchange.round] = exchange
        return [last[number] for number in sorted(last)]


def read_exchanges(run_folder: Path, watch: Watch) -> Exchanges:
    """Put a run's log and what a Watch stamped together."""
    found = Exchanges()
    run_log = run_folder / "run.log"
    for line in run_log.read_text().splitlines():
        match = _ARRIVED.match(line)
        if match is None:
            continue
        site, arrived = match[3], _seconds(match[1])
        sent = arrived - float(match[5])
        said = {name: when for name, when in watch.events[site] if sent < when < arrived + LOOK}
        done, training = watch.answered.get((site, run_folder.name, int(match[4])), (None, 0.0))
        if done is None or not set(said) >= {*_TOLD.values(), "started"}:
            found.torn += 1
            continue
        times = (
            *(sent, said["pulling"], said["pulled"], said["started"], said["imported"]),
            *(done - training, done, said["pushing"], min(said["pushed"], arrived), arrived),
        )
        found.complete.append(Exchange(site=site, round=int(match[2]), times=times, training=training))
    return found


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def _times(pid: int) -> tuple[float, float] | None:
    """When a process began, in seconds since 1970, and its processor seconds so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - int(fields[19]) / ticks
    return time.time() - age, (int(fields[11]) + int(fields[12])) / ticks
