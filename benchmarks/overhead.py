"""What a federation adds to a round beyond training: three sites on this machine, TLS, node authentication.

Sites train for an instant, so that a round is all transport: masked, with survivors confirmed, and with
updates in the open. Then a minute without a run: what relays and agents use, and how often they ask.
Beside it stock Flower: the same certificates and keys, plain messages, Flower's own intervals, and two
messages a round, as FedAvg has.

With ``--count`` the SuperLink writes down what it is asked, which takes it time of its own: how often a
round asks for what, sites (``fleet/``) and the coordinator's side (``runtime/``).

Run from the repository's root: PYTHONPATH=. python benchmarks/overhead.py [--rounds 12] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil
from processes import end_in_order
from stock_flower import seconds_a_round, stock_seconds

from tests.federation.local import SITES, LocalFederation, local_federation

SETTINGS = (
    *("training.local_steps=1", "training.batch_size=8", "training.physical_batch_size=8"),
    *("data.limit=32", "federation.deadline=120"),
)
IDLE_AFTER, IDLE_FOR = 130.0, 60.0  # seconds
_ROUND_ENDS = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*confide\.rounds: round (\d+): ")
_ASKED = re.compile(r"uvicorn\.access\].*POST /v1/(\S+) ")
_ANSWERED = re.compile(r"run (\S+), round (\d+), request \d+: answered after ([\d.]+) s")
# What a process is called here, by a word of its command line; the first that fits.
_KINDS = {
    "relay_process": "relays",
    "lean_superlink": "SuperLink",
    "serverapp": "coordinator",
    "nginx": "proxy",
    "--agent-only": "agents",
    "--relay-only": "relays",
}


def main() -> None:
    end_in_order()
    options = _options()
    if options.count:
        os.environ["FLWR_LOG_LEVEL"] = "DEBUG"
    found: dict[str, object] = {}
    with ExitStack() as stack:
        place = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        with local_federation(Path(place) / "f") as federation:
            _allow_open_updates(federation)
            masked = federation.job.read_text()
            for kind, key in (("masks", "beyond_training_masks"), ("none", "beyond_training")):
                federation.job.write_text(masked if kind == "masks" else _in_the_open(masked))
                beyond, processor, asked = measure(federation, kind, rounds=options.rounds)
                found[key] = statistics.median(beyond)
                found[f"{key}_all"] = beyond
                found[f"processor_{kind}"] = processor
                if options.count:
                    found[f"requests_{kind}"] = asked
            if not options.without_idle:
                found["idle"] = idle(federation)
            found["load_average"] = os.getloadavg()[0]
        if not options.without_stock:
            found["flower_fedavg"] = seconds_a_round(stock_seconds(federation, rounds=options.rounds))
    print(json.dumps(_rounded(found)) if options.json else _table(_rounded(found)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--without-stock", action="store_true")
    parser.add_argument("--without-idle", action="store_true")
    parser.add_argument("--count", action="store_true", help="requests a round, by what is asked")
    parser.add_argument("--keep", type=Path, help="a new folder for the federation and its logs")
    parser.add_argument("--json", action="store_true", help="one line: seconds a round, medians")
    return parser.parse_args()


def measure(
    federation: LocalFederation, kind: str, *, rounds: int
) -> tuple[list[float], dict[str, float], dict[str, float]]:
    """Seconds of each round beyond training, and what a round takes: processor seconds by part, requests.

    The first round is left out: its requests wait for agents that load and check their model.
    """
    words = [f"aggregation.kind={kind}", f"training.rounds={rounds}", *SETTINGS]
    name = f"with-{kind}"
    run = federation.start_run(*[word for each in words for word in ("--set", each)], name=name)
    log = federation.coordinator / "runs" / name / "run.log"
    federation.wait_until(lambda: 1 in _ends(log) or run.poll() is not None, what="the first round")
    before, asked_before = _processor(federation), _asked(federation)
    federation.wait_until(
        lambda: rounds in _ends(log) or run.poll() is not None, what="the last round", seconds=60.0 * rounds
    )
    after, asked = _processor(federation), _asked(federation) - asked_before
    if federation.wait(run) != 0:
        raise RuntimeError(federation.said())
    ends, training = _ends(log), _training(federation, name)
    beyond = [ends[this] - ends[last] - training[this] for last, this in pairwise(sorted(ends))]
    spent = {part: (after[part] - before[part]) / (rounds - 1) for part in sorted(after)}
    return beyond, spent, {what: asked[what] / (rounds - 1) for what in sorted(asked)}


def _ends(log: Path) -> dict[int, float]:
    """When each round ended, in seconds since 1970."""
    lines = log.read_text().splitlines() if log.exists() else []
    return {int(match[2]): _seconds(match[1]) for line in lines if (match := _ROUND_ENDS.match(line))}


def _training(federation: LocalFederation, run: str) -> dict[int, float]:
    """Of each round, the longest that an agent says it took for one request: training is."""
    found: dict[int, float] = {}
    for site in SITES:
        for line in (federation.log / f"agent-{site}.log").read_text().splitlines():
            if (match := _ANSWERED.search(line)) and match[1] == run:
                found[int(match[2])] = max(found.get(int(match[2]), 0.0), float(match[3]))
    return found


def _processor(federation: LocalFederation) -> Counter[str]:
    """Processor seconds so far of the federation's processes, by what they are."""
    found: Counter[str] = Counter()
    for started in federation.processes.values():
        if started.poll() is not None:
            continue
        whole = psutil.Process(started.pid)
        for process in [whole, *whole.children(recursive=True)]:
            try:
                words, times = " ".join(process.cmdline()), process.cpu_times()
            except psutil.Error:
                continue
            kind = next((name for word, name in _KINDS.items() if word in words), "other")
            found[kind] += times.user + times.system
    return found


def _asked(federation: LocalFederation) -> Counter[str]:
    """What the SuperLink was asked so far, if it writes that down."""
    log = federation.coordinator / "logs" / "superlink.log"
    return Counter(_ASKED.findall(log.read_text(errors="replace")))


def idle(federation: LocalFederation) -> dict[str, float]:
    """What a site uses while there is no run: shares of a core, and requests a minute."""
    time.sleep(IDLE_AFTER)
    log = federation.coordinator / "logs" / "proxy-access.log"

    def look() -> tuple[Counter[str], int]:
        return _processor(federation), len(log.read_text().splitlines())

    return _idle(look)


def _idle(look: Callable[[], tuple[Counter[str], int]]) -> dict[str, float]:
    before, asked_before = look()
    time.sleep(IDLE_FOR)
    after, asked = look()
    shares = {
        f"{part}_share_of_a_core_each": (after[part] - before[part]) / IDLE_FOR / len(SITES)
        for part in ("relays", "agents")
    }
    return shares | {"requests_a_minute_each": (asked - asked_before) * 60 / IDLE_FOR / len(SITES)}


def _allow_open_updates(federation: LocalFederation) -> None:
    for site in SITES:
        path = federation.home(site) / "site.toml"
        text = path.read_text()
        path.write_text(re.sub(r'(?m)^secure_aggregation = "\w+"', 'secure_aggregation = "optional"', text))


def _in_the_open(job: str) -> str:
    """A job without the keys that only masks have."""
    return re.sub(r"(?m)^threshold = .*\n", "", job)


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def _table(found: object, indent: str = "") -> str:
    lines = []
    for name, value in dict(found).items():  # type: ignore[call-overload]
        nested = isinstance(value, dict)
        lines.append(f"{indent}{name}:" + ("" if nested else f" {value}"))
        if nested:
            lines.append(_table(value, indent + "  "))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
