"""What the ledger costs at 10,000 entries: reserving beyond the disk's own flushes, opening, auditing.

A site's own disk flushes as fast as it does, so the same number of flushes, of as many bytes each, is
timed in between and taken off. They are counted where the kernel sees them, by strace, if it is there.

Run: python benchmarks/ledger.py [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from privacy.accounting.sampled_plan import SampledPlan
from privacy.durable import write_whole
from privacy.identity import Identity
from privacy.ledger.ledger import Charge, Ledger
from privacy.ledger.ledger_audit import audit_ledger
from privacy.mechanisms.mechanism import Mechanism

ENTRIES, RUNS, DATASETS, EXAMPLES = 10_000, 100, 4, 1000
REPEATS = 100
# A reserve flushes the write-ahead log once; the head's file makes one more.
PAGES, PAGE = 3, 4096
FLUSHES = 2
PLAN = SampledPlan(
    mechanism=Mechanism(name="gaussian", multiplier=2.0),
    clipping_norm=1.0,
    sampling_rate=0.01,
    steps=400,
    delta=1e-8,
)


def open_ledger(home: Path, identity: Identity) -> Ledger:
    return Ledger.open(home, site="site-1", identity=identity, epsilon=1000.0, delta=1e-5)


def charge(dataset: int, run: int, number: int) -> Charge:
    return Charge(dataset=dataset, run=f"run-{run}", manifest="0" * 64, plan=PLAN, round=number, steps=1)


def fill(home: Path, identity: Identity) -> tuple[Ledger, list[int]]:
    """A ledger of that many entries, with data sets that overlap by half, unflushed."""
    ledger = open_ledger(home, identity)
    ledger._chain._file._db.execute("PRAGMA synchronous = OFF")
    half = EXAMPLES // 2
    datasets = [
        ledger.register(hashlib.sha256(b"%d" % k).digest() for k in range(i * half, i * half + EXAMPLES))
        for i in range(DATASETS)
    ]
    left = ENTRIES - 1 - DATASETS - RUNS
    for number in range(left):
        run = number % RUNS
        ledger.reserve(charge(datasets[run % DATASETS], run, number))
    ledger._chain._file._db.execute("PRAGMA synchronous = FULL")
    return ledger, datasets


def flush(place: Path) -> None:
    """What the disk itself takes for the flushes of a reserve."""
    with (place / "log").open("ab") as file:
        file.write(os.urandom(PAGES * PAGE))
        file.flush()
        os.fsync(file.fileno())
    write_whole(place / "head", os.urandom(256))


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def counted_flushes(home: Path, key: Path) -> float | None:
    """Flushes a reserve, as strace counts them; None without it."""
    if shutil.which("strace") is None:
        return None
    found = []
    for reserves in ("0", "0", "20"):  # the first begins a data set and a run
        script = [sys.executable, __file__, "--only-reserve", reserves, str(home), str(key)]
        strace = ["strace", "-f", "-e", "trace=fsync,fdatasync,sync_file_range,msync", *script]
        done = subprocess.run(strace, capture_output=True, text=True, check=False)
        if done.returncode:
            return None
        found.append(sum("sync(" in line for line in done.stderr.splitlines()))
    return (found[2] - found[1]) / 20


def only_reserve(count: int, home: Path, key: Path) -> None:
    ledger = open_ledger(home, Identity.load(key))
    dataset = ledger.register([b"strace"])
    for number in range(count):
        ledger.reserve(charge(dataset, 10_000, number))
    os._exit(0)  # closing would flush too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only-reserve", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only_reserve:
        count, home, key = asked.only_reserve
        only_reserve(int(count), Path(home), Path(key))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        home = Path(place) / "site"
        key = home / "identity.key"
        identity = Identity.load_or_create(key)
        ledger, datasets = fill(home, identity)
        pairs = []
        for number in range(REPEATS):
            new = charge(datasets[0], RUNS, number)
            pairs.append(
                (milliseconds(lambda n=new: ledger.reserve(n)), milliseconds(lambda: flush(Path(place))))
            )
        ledger.close()

        def reopen() -> None:
            open_ledger(home, identity).close()

        opening = [milliseconds(reopen) / 1000 for _ in range(5)]
        auditing = [milliseconds(lambda: audit_ledger(home / "ledger.db")) / 1000 for _ in range(3)]
        size = (home / "ledger.db").stat().st_size
        flushes = counted_flushes(home, key)
    found = {
        "entries": ENTRIES,
        "megabytes": size / 1e6,
        "flushes_a_reserve": flushes or FLUSHES,
        "reserve_ms_median": statistics.median(whole for whole, _ in pairs),
        "disk_ms_median": statistics.median(disk for _, disk in pairs),
        "reserve_ms_beyond_disk_median": statistics.median(whole - disk for whole, disk in pairs),
        "open_and_verify_s_median": statistics.median(opening),
        "audit_s_median": statistics.median(auditing),
    }
    print(json.dumps(found) if asked.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
