"""A federation that is left alone, and one whose parts are killed at random, side by side.

First a run undisturbed. Then the same while a seeded dice kills agents, relays, the SuperLink,
the server and the coordinating process outright, and stops a site for a while; what died is started again,
and a run that died is resumed. The end must be a finished run, ledgers that verify, an audit that passes,
and nobody charged for a round more often than that site's agent was killed.

Run from the repository's root: PYTHONPATH=. python benchmarks/chaos.py [--seed 7] [--rounds 10] [--json]
With --calm-only --rounds 50 only the undisturbed run, for the agents' memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from processes import end_in_order, find_below, resident_mib

from privacy.errors import ConfideError
from privacy.ledger.entries import Released
from privacy.ledger.ledger_audit import audit_ledger
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from tests.federation.local import SITES, LocalFederation, local_federation

HELD_OUT = 200
_PAUSE = (4.0, 12.0)  # seconds between two blows
_STOPPED = (5.0, 20.0)  # seconds that a site is stopped for
_RUN_MINUTES = 5.0  # after which a run is not disturbed any more
_MOST_RESUMES = 40


def settings(rounds: int) -> list[str]:
    chosen = (
        *(f"training.rounds={rounds}", f"data.limit={HELD_OUT}", "training.local_steps=2"),
        *("training.batch_size=64", "training.physical_batch_size=32", "training.learning_rate=4"),
        *("federation.min_sites=2", "federation.deadline=60"),
    )
    return [word for setting in chosen for word in ("--set", setting)]


@dataclass(kw_only=True)
class Chaos:
    """Kills what it may, in an order that a seed fixes, and remembers what it did."""

    federation: LocalFederation
    dice: random.Random
    done: Counter[str] = field(default_factory=Counter)
    agents_killed: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    _bag: list[str] = field(default_factory=list)

    def blow(self, rounds: int) -> None:
        """One blow; each kind comes once before any comes again."""
        kinds: dict[str, Callable[[str], bool]] = {
            "agent": self._agent,
            "relay": lambda site: self._one_below(f"relay-{site}", "relay_process"),
            "SuperLink": lambda _site: self._one_below("server", "lean_superlink"),
            "server": self._server,
            "coordinating process": lambda _site: self._one_below("server", "flwr-serverapp"),
            "stopped site": self._stop_a_while,
        }
        if not self._bag:
            self._bag = self.dice.sample(sorted(kinds), len(kinds))
        kind, site = self._bag[-1], self.dice.choice(SITES)
        if kinds[kind](site):
            self._bag.pop()
            self.done[kind] += 1
            self.story.append(f"{time.strftime('%H:%M:%S')} after round {rounds}: {kind}, {site}")

    def revive(self) -> None:
        """Start again what ended by itself, as a supervisor of services does, and remember that it did."""
        for name, process in list(self.federation.processes.items()):
            if name == "run" or process.poll() is None:
                continue
            self.story.append(
                f"{time.strftime('%H:%M:%S')} {name} had ended by itself: {process.returncode}"
            )
            part, _, site = name.partition("-")
            starts = {"agent": self.federation.start_agent, "relay": self.federation.start_relay}
            if site:
                starts[part](site)
            else:
                self.federation.start_server()

    def _agent(self, site: str) -> bool:
        self.federation.kill(f"agent-{site}")
        self.agents_killed[site] += 1
        self.federation.start_agent(site)
        return True

    def _server(self, _site: str) -> bool:
        self.federation.kill("server")
        self.federation.start_server()
        return True

    def _one_below(self, name: str, program: str) -> bool:
        found = find_below(self.federation.processes[name].pid, program)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return bool(found)

    def _stop_a_while(self, site: str) -> bool:
        stopped = []
        for name in (f"agent-{site}", f"relay-{site}"):
            pid = self.federation.processes[name].pid
            stopped += [pid, *find_below(pid, "")]
        try:
            for pid in stopped:
                _signal(pid, signal.SIGSTOP)
            time.sleep(self.dice.uniform(*_STOPPED))
        finally:
            for pid in stopped:
                _signal(pid, signal.SIGCONT)
        return True


def main() -> None:
    end_in_order()
    options = _options()
    with ExitStack() as stack:
        place = Path(options.keep or stack.enter_context(tempfile.TemporaryDirectory())) / "f"
        with local_federation(place) as federation:
            found = {"calm": calm(federation, rounds=options.rounds)}
            if not options.calm_only:
                found["storm"] = storm(federation, rounds=options.rounds, seed=options.seed)
    wrong = [] if options.calm_only else _wrong(found["calm"], found["storm"])
    found["wrong"] = wrong
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))
    if wrong:
        raise SystemExit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--calm-only", action="store_true")
    parser.add_argument("--keep", type=Path, help="a new folder for the federation and its logs")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def calm(federation: LocalFederation, *, rounds: int) -> dict[str, object]:
    """A run undisturbed, and its agents' memory after each fifth round."""
    began, memory = time.monotonic(), dict[int, list[int]]()
    process = federation.start_run(*settings(rounds), name="calm")
    while process.poll() is None:
        done = _rounds(federation, "calm")
        if done % 5 == 0 and done and done not in memory:
            memory[done] = [resident_mib(federation.processes[f"agent-{site}"].pid) for site in SITES]
        if time.monotonic() - began > 60 * rounds + 300:
            raise RuntimeError(f"the calm run does not end\n{federation.said()}")
        time.sleep(0.3)
    if process.returncode != 0:
        raise RuntimeError(federation.said())
    logs = [(federation.log / f"agent-{site}.log").read_text() for site in SITES]
    return _ended(federation, "calm") | {
        "seconds": round(time.monotonic() - began),
        "load_average": os.getloadavg()[0],
        "agents_MiB_after_rounds": memory,
        "models_loaded": [log.count("loaded its model") for log in logs],
    }


def storm(federation: LocalFederation, *, rounds: int, seed: int) -> dict[str, object]:
    """The same run among blows."""
    began, resumed = time.monotonic(), 0
    chaos = Chaos(federation=federation, dice=random.Random(seed))  # noqa: S311  # no secret is drawn
    process = federation.start_run(*settings(rounds), name="storm")
    federation.wait_until(
        lambda: _rounds(federation, "storm") > 0 or process.poll() is not None, what="round 1", seconds=300
    )
    while (done := _rounds(federation, "storm")) < rounds or process.poll() is None:
        minutes = (time.monotonic() - began) / 60
        if process.poll() is not None:
            resumed += 1
            said = (federation.log / "run.log").read_text().strip().splitlines()[-1:]
            chaos.story.append(f"{time.strftime('%H:%M:%S')} ended {process.returncode}: {said}, resumed")
            if resumed > _MOST_RESUMES or minutes > 3 * _RUN_MINUTES:
                raise RuntimeError("\n".join([*chaos.story, federation.said()]))
            chaos.revive()
            time.sleep(2.0)
            process = federation.resume("storm")
        elif minutes < _RUN_MINUTES and done < rounds:
            chaos.revive()
            chaos.blow(done)
        elif minutes > 3 * _RUN_MINUTES:
            raise RuntimeError("\n".join([*chaos.story, federation.said()]))
        _wait(process, chaos.dice.uniform(*_PAUSE))
    return _ended(federation, "storm") | {
        "seconds": round(time.monotonic() - began),
        "load_average": os.getloadavg()[0],
        "blows": dict(chaos.done),
        "agents_killed": dict(chaos.agents_killed),
        "resumed": resumed,
        "story": chaos.story,
    }


def _ended(federation: LocalFederation, run: str) -> dict[str, object]:
    """What the run's folder and the ledgers tell, and whether the audits pass."""
    folder = RunFolder.open(federation.coordinator / "runs" / run)
    records = folder.records()
    ledgers = {site: federation.home(site) / "ledger.db" for site in SITES}
    charges: dict[str, Counter[int]] = {}
    for site, path in ledgers.items():
        entries = audit_ledger(path).entries
        events = [entry.event for entry in entries if isinstance(entry.event, Released)]
        charges[site] = Counter(event.round for event in events if event.run == run)
    try:
        audit_run(folder, ledgers.values())
        audit = "passed"
    except ConfideError as error:
        audit = str(error)
    return {
        "rounds": len(records),
        "accuracy": records[-1].measures["accuracy"],
        "absent": sum(len(record.absent) for record in records),
        "charged_again": {
            site: sum(count - 1 for count in rounds.values()) for site, rounds in charges.items()
        },
        "audit": audit,
    }


def _wrong(calm: dict[str, object], storm: dict[str, object]) -> list[str]:
    """What must hold and does not.

    Accuracy may differ by three standard errors of a difference of two held-out accuracies: beyond that, a
    few missing sites and fresh noise do not explain it.
    """
    before, after = float(calm["accuracy"]), float(storm["accuracy"])  # type: ignore[arg-type]
    tolerance = 3 * math.sqrt(2 * max(before * (1 - before), 0.01) / HELD_OUT)
    again, killed = storm["charged_again"], storm["agents_killed"]
    checks = {
        "an audit fails": calm["audit"] != "passed" or storm["audit"] != "passed",
        "rounds are missing": calm["rounds"] != storm["rounds"],
        f"accuracy {after:.3f} after {before:.3f}, {tolerance:.3f} allowed": after < before - tolerance,
        "charged again though nobody was killed": any(calm["charged_again"].values()),  # type: ignore[attr-defined]
        "charged again more often than killed": any(
            count > killed.get(site, 0)  # type: ignore[attr-defined]
            for site, count in again.items()  # type: ignore[attr-defined]
        ),
    }
    return [what for what, is_wrong in checks.items() if is_wrong]


def _rounds(federation: LocalFederation, run: str) -> int:
    path = federation.coordinator / "runs" / run / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
