"""Eight processes on one ledger, killed where it hurts: what was released is charged, nothing goes over.

Workers are forked from a process of their own that has imported what they need. Half of them are killed
from outside at a moment that chance picks; half kill themselves in a reserve, at the beginning or end of a
call that chance picks.
"""

# ruff: noqa: S311

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from random import Random

import pytest

from privacy.ledger.entries import Released, read_entry
from privacy.ledger.ledger import Charge, Ledger, Reserved
from privacy.ledger.ledger_audit import audit_ledger
from tests import children
from tests.privacy.ledgers import DATA, PLANS, charge, check_bounds, data_from, digests, open_ledger, play

LEDGERS, WORKERS, KILLS = 4, 8, 50
# How far apart kills come, in seconds: about what a few reserves take.
APART = 0.1
# A reserve makes this many calls or a few hundred more; about the last of them commit, and note that.
CALLS, CALLS_AT_COMMIT = 1700, (1200, 1700)
ROOT = Path(__file__).resolve().parents[3]


def work(home: Path, seed: int) -> None:
    """Reserve until killed, and write down what each reserve allowed to be released."""
    random = Random(seed)
    released = os.open(home / "released" / str(seed), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ledger = open_ledger(home)
    if seed % 2:
        _kill_in_reserve(ledger, random)
    play(
        ledger,
        random,
        moves=10**6,
        data=data_from(first(seed)),
        prefix=f"{seed}.",
        tell=lambda line: os.write(released, line.encode()),
    )


def first(seed: int) -> int:
    """Where a worker's data begin: some of it has room, some was used up by earlier workers."""
    return seed % 1000 // 16 * 15


def _kill_in_reserve(ledger: Ledger, random: Random) -> None:
    """At one of the first reserves, after so many beginnings and ends of calls."""
    doomed, left = random.randint(1, 3), random.randint(*random.choice([(1, CALLS), CALLS_AT_COMMIT]))
    whole = ledger.reserve

    def count_down(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def reserve(charge: Charge) -> Reserved:
        nonlocal doomed
        doomed -= 1
        if doomed == 0:
            sys.setprofile(count_down)
        return whole(charge)

    ledger.reserve = reserve  # type: ignore[method-assign]


def drive(home: Path, seed: int) -> None:
    """Keep eight workers on a ledger until ``KILLS`` were killed; each that dies gets a successor."""
    random = Random(seed)
    (home / "released").mkdir(parents=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    running: set[int] = set()
    begun = killed = 0
    # On a busy machine most are killed before they release anything: then it takes more kills.
    while killed < KILLS or _released(home) <= KILLS:
        while len(running) < WORKERS:
            running.add(_fork(home, 1000 * seed + begun))
            begun += 1
        if signal.sigtimedwait({signal.SIGCHLD}, random.uniform(0, 2 * APART)) is None:
            os.kill(random.choice(sorted(running)), signal.SIGKILL)
        killed += _reap(running, os.WNOHANG)
    for worker in running:
        os.kill(worker, signal.SIGKILL)
    while running:
        killed += _reap(running, 0)
    print(killed)


def _released(home: Path) -> int:
    return sum(file.read_text().count("\n") for file in (home / "released").iterdir())


def _fork(home: Path, seed: int) -> int:
    worker = os.fork()
    if worker == 0:
        try:
            work(home, seed)
        except BaseException as error:
            os.write(2, f"worker {seed}: {error!r}\n".encode())
        os._exit(1)
    return worker


def _reap(running: set[int], options: int) -> int:
    """Take leave of workers that are dead. Raises RuntimeError if one was not killed."""
    killed = 0
    while running:
        worker, status = os.waitpid(-1, options)
        if worker == 0:
            break
        running.remove(worker)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise RuntimeError("a worker ended without being killed")
        killed += 1
    return killed


def missing_from(path: Path, released: Path) -> list[str]:
    """What workers released that the ledger does not charge."""
    charged = set()
    with sqlite3.connect(path) as database:
        for number, body in database.execute("SELECT number, body FROM entries"):
            event = read_entry(body, number=number).event
            if isinstance(event, Released):
                charged.add(f"{event.run} {event.round} {event.steps}")
    lines = [line for file in released.iterdir() for line in file.read_text().splitlines()]
    assert len(lines) > KILLS
    return [line for line in lines if line not in charged]


@pytest.mark.process
@pytest.mark.parametrize("seed", range(LEDGERS))
def test_kills_lose_nothing_that_was_released(tmp_path: Path, seed: int) -> None:
    home = tmp_path / "home"
    done = children.run(
        [sys.executable, "-m", "tests.privacy.ledger.test_ledger_kills", home, str(seed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= KILLS
    path = home / "ledger.db"
    audited = audit_ledger(path)
    assert audited.complete
    assert len(audited.plans) > 5
    assert missing_from(path, home / "released") == []
    assert check_bounds(path) > 110  # what one family of data sets holds; later ones overlap with it
    ledger = open_ledger(home)
    assert ledger.reserve(charge(ledger.register(digests(range(500, 510))), run="after")).taken == 1
    ledger.close()
    assert len(audit_ledger(path).entries) >= len(audited.entries) + 3


def test_a_release_without_a_charge_is_seen(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    (tmp_path / "released").mkdir()
    lines: list[str] = []
    play(ledger, Random(0), moves=200, tell=lines.append)
    (tmp_path / "released" / "0").write_text("".join(lines))
    ledger.close()
    assert missing_from(tmp_path / "ledger.db", tmp_path / "released") == []
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        released = "SELECT max(number) FROM entries WHERE CAST(body AS TEXT) LIKE '%\"released\"%'"
        database.execute("DELETE FROM entries WHERE number = ?", database.execute(released).fetchone())
    assert len(missing_from(tmp_path / "ledger.db", tmp_path / "released")) == 1


def test_every_commit_and_its_note_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite flushes the log, by synchronous=FULL (2); the head's file is ours, and when new its folder."""
    flushed = []
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    ledger = open_ledger(tmp_path)
    assert flushed == [".ledger.head.partial", tmp_path.name]
    dataset = ledger.register(DATA["base"])
    flushed.clear()
    ledger.reserve(charge(dataset))
    assert flushed == [".ledger.head.partial"]
    assert ledger._chain._file._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert ledger._chain._file._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def main() -> None:
    home, seed = Path(sys.argv[1]), int(sys.argv[2])
    home.mkdir(parents=True)
    warm = open_ledger(home / "warm")
    for plan in PLANS:
        warm.budget.cost(plan)  # its ε is kept for the workers
    drive(home, seed)


if __name__ == "__main__":
    main()
