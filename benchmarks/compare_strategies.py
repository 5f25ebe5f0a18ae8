"""Every strategy on the same data: accuracy, what a site sends, and seconds a round, by ε.

The demo's tweets and model, dealt to eight sites by Dirichlet(0.3). A rule's learning rate is chosen for
each ε among a few, on a seed of its own; what is reported are other seeds, the same for all rules. Updates
are read in the open, so that rules which need each of them stand beside those that do not.

Each run that ends is a line of ``--results``, and is not run again: the whole takes hours, and can be
stopped and gone on with.

Run: python benchmarks/compare_strategies.py --results FILE [--rules ffa,fedsvd] [--epsilons none,3,1]
     [--repeats 3] [--rounds 8] [--limit ROWS] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from privacy.errors import ConfideError
from protocol.job.strategy import find_strategy, listed_strategies
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.registry import read_job

DEMO = Path(__file__).parent.parent / "examples" / "tweets.toml"
RATES = (4.0, 16.0, 64.0)
TUNED_ON = 1000  # the first seed of runs that choose a rate; reports count from 0


def settings(
    rule: str, epsilon: str, *, rate: float, seed: int, rounds: int, limit: int | None
) -> list[str]:
    """One run's job, as settings of the demo's."""
    keys = ["malicious=1"] if "malicious" in find_strategy(rule).model_fields else []
    found = [
        "federation.sites=8",
        "federation.partition={dirichlet=0.3}",
        'aggregation.kind="none"',
        f"strategy.name={rule}",
        *(f"strategy.{key}" for key in keys),
        f"training.rounds={rounds}",
        f"training.learning_rate={rate}",
        *(f"seeds.{name}={seed}" for name in ("data", "adapter", "noise")),
    ]
    if epsilon == "none":
        found.append('privacy.mechanism="none"')
    else:
        found.append(f"privacy.epsilon={epsilon}")
    return found if limit is None else [*found, f"data.limit={limit}"]


def run_once(wanted: dict[str, Any]) -> dict[str, Any]:
    """A run's figures, or why there are none."""
    asked = {key: wanted[key] for key in ("rate", "seed", "rounds", "limit")}
    with tempfile.TemporaryDirectory() as folder:
        try:
            job = read_job(DEMO, settings=settings(wanted["rule"], wanted["epsilon"], **asked))
            run = simulate(job, runs=Path(folder), name="run", workers=1)
        except ConfideError as error:
            return wanted | {"failed": str(error)}
        records = RunFolder.open(run.folder).records()
        facts = RunFolder.open(run.folder).facts
    later = records[1:] or records  # the first keeps activations, and finds out what pays
    return wanted | {
        "accuracy": records[-1].measures["accuracy"],
        "loss": records[-1].loss,
        "numbers": facts["trained_parameters"],
        "bytes": records[-1].bytes_up / 8,
        "seconds": statistics.median(record.seconds for record in later),
    }


class Results:
    """Lines of a file, each a run that has ended, by what was asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self._found = {self._key(line): line for line in map(json.loads, lines)}

    def get(self, **wanted: Any) -> dict[str, Any]:
        """What a run came to; it is run first if it has not been."""
        key = self._key(wanted)
        if key not in self._found:
            self._found[key] = run_once(wanted)
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(self._found[key]) + "\n")
            print(json.dumps(self._found[key]), file=sys.stderr, flush=True)
        return self._found[key]

    @staticmethod
    def _key(line: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(line[name] for name in ("rule", "epsilon", "rate", "seed", "rounds", "limit"))


def best_rate(results: Results, rule: str, epsilon: str, **size: Any) -> float | None:
    """The rate with the lowest held-out loss on the seed that rates are chosen on; None if none works."""
    tried = [results.get(rule=rule, epsilon=epsilon, rate=rate, seed=TUNED_ON, **size) for rate in RATES]
    worked = [one for one in tried if "failed" not in one]
    return min(worked, key=lambda one: one["loss"])["rate"] if worked else None


def compared(
    results: Results, rules: Iterable[str], epsilons: Iterable[str], *, repeats: int, **size: Any
) -> list[dict[str, Any]]:
    """A row for each rule and ε."""
    rows = []
    for epsilon in epsilons:
        for rule in rules:
            rate = best_rate(results, rule, epsilon, **size)
            row: dict[str, Any] = {"rule": rule, "epsilon": epsilon, "rate": rate}
            if rate is not None:
                found = [
                    results.get(rule=rule, epsilon=epsilon, rate=rate, seed=seed, **size)
                    for seed in range(repeats)
                ]
                done = defaultdict(list)
                for one in found:
                    for key in ("accuracy", "bytes", "numbers", "seconds"):
                        if key in one:
                            done[key].append(one[key])
                row |= {key: statistics.fmean(values) for key, values in done.items()}
                row["deviation"] = statistics.stdev(done["accuracy"]) if len(done["accuracy"]) > 1 else None
                row["runs"] = len(done["accuracy"])
            rows.append(row)
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table of Markdown."""
    lines = [
        "| rule | ε | rate | accuracy | numbers sent | kB a round | s a round |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row.get("runs"):
            lines.append(f"| `{row['rule']}` | {row['epsilon']} | | does not go with it | | | |")
            continue
        spread = "" if row["deviation"] is None else f" ± {100 * row['deviation']:.1f}"
        lines.append(
            f"| `{row['rule']}` | {row['epsilon']} | {row['rate']:g} "
            f"| {100 * row['accuracy']:.1f} %{spread} | {row['numbers']:,.0f} "
            f"| {row['bytes'] / 1000:,.0f} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rules", default=",".join(listed_strategies()))
    parser.add_argument("--epsilons", default="none,3,1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = compared(
        Results(asked.results),
        asked.rules.split(","),
        asked.epsilons.split(","),
        repeats=asked.repeats,
        rounds=asked.rounds,
        limit=asked.limit,
    )
    print(json.dumps(rows) if asked.json else as_table(rows))


if __name__ == "__main__":
    main()
