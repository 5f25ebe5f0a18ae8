"""Every strategy on the same data: accuracy, what a site sends, and seconds a round, by ε.

The demo's tweets and model, dealt to eight sites by Dirichlet(0.3). A rule's learning rate is chosen for
each ε among a few, on a seed of its own; what is reported are other seeds, the same for all rules. Updates
are read in the open, so that rules which need each of them stand beside those that do not. Where a sum of
both factors is all that a rule takes, it is also measured how far that misses the mean of the products.

``--quick`` takes an hour of one core: fewer tweets and steps, the top layer alone, and one learning rate
for all rules that train the same factors, which is chosen with one of them.

Each run that ends is a line of ``--results``, and is not run again: the whole can be stopped and gone on
with, and ``--print`` shows what there is so far. Seeds come one after another, each with all rules.

``--set`` changes the job of all runs, and ``--rate`` is taken instead of the best: so a rule's flatness in
alpha and rank is seen.

Run: python benchmarks/compare_strategies.py --results FILE [--quick] [--rules ffa,fedsvd]
     [--epsilons none,3,1] [--repeats 3] [--rounds N] [--limit ROWS] [--set KEY=VALUE] [--rate R]
     [--print] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ConfideError
from protocol.job.strategy import find_strategy, listed_strategies
from runs.peft_form import load_tensors
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from strategies.averaging import RunningMean
from strategies.fedit import FedIT, averaging_error
from tasks.registry import read_job

DEMO = Path(__file__).parent.parent / "examples" / "tweets.toml"
RATES = (0.25, 1.0, 4.0, 16.0, 64.0)
EPSILONS = ("none", "3", "1")
# Seeds, by --quick, with which every site gets a batch at least; rates are chosen on one of their own.
SEEDS = {False: (8, 10, 4, 5, 7), True: (0, 3, 5, 10, 11)}
TUNED_ON = {False: 14, True: 7}
ROUNDS = {False: 8, True: 5}
QUICK_LIMIT = 6000  # tweets
QUICK = (
    "device.threads=1",
    "adapter.layers_to_transform=[5]",
    "data.max_length=16",
    "data.holdout=0.1",
    "training.local_steps=2",
    "training.batch_size=32",
    "training.physical_batch_size=32",
)
# By what a rule trains, whose rate --quick takes.
TUNED = {"B": "ffa", "A and B": "fedit", "core": "fedsb", "head": "head"}


def settings(
    rule: str,
    epsilon: str,
    *,
    rate: float,
    seed: int,
    rounds: int,
    limit: int | None,
    quick: bool,
    more: list[str],
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
    found += QUICK if quick else ()
    found += [] if limit is None else [f"data.limit={limit}"]
    return [*found, *more]


def run_once(wanted: dict[str, Any]) -> dict[str, Any]:
    """A run's figures, or why there are none."""
    asked = {key: wanted[key] for key in ("rate", "seed", "rounds", "limit", "quick", "more")}
    with tempfile.TemporaryDirectory() as folder, sent_updates() as sent:
        try:
            job = read_job(DEMO, settings=settings(wanted["rule"], wanted["epsilon"], **asked))
            run = simulate(job, runs=Path(folder), name="run", workers=1)
        except ConfideError as error:
            return wanted | {"failed": str(error)}
        left = RunFolder.open(run.folder)
        records, facts = left.records(), left.facts
        missed = averages_miss(left, sent)
    later = records[1:] or records  # the first keeps activations, and finds out what pays
    figures = {
        "accuracy": records[-1].measures["accuracy"],
        "loss": records[-1].loss,
        "numbers": facts["trained_parameters"],
        "bytes": records[-1].bytes_up / 8,
        "seconds": statistics.median(record.seconds for record in later),
        "missed": missed,
    }
    return wanted | {key: value for key, value in figures.items() if value is not None}


@contextmanager
def sent_updates() -> Iterator[list[list[NDArray[np.float32]]]]:
    """What the sites of a simulation in this process send, by round, where the coordinator adds it up."""
    rounds: list[list[NDArray[np.float32]]] = []

    class Noted(RunningMean):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._sent: list[NDArray[np.float32]] = []

        def add(self, update: NDArray[np.float32]) -> None:
            super().add(update)
            self._sent.append(update.copy())

        def mean(self) -> NDArray[np.float32]:
            rounds.append(self._sent)
            return super().mean()

    with patch("server.sums.sums.RunningMean", Noted):
        yield rounds


def averages_miss(folder: RunFolder, sent: list[list[NDArray[np.float32]]]) -> float | None:
    """How far averages of A and of B miss the mean product, relative, over rounds and layers.

    None for a rule that does not average both.
    """
    strategy = folder.manifest.job.strategy
    if type(strategy) is not FedIT:
        return None
    shapes = {name: tensor.shape for name, tensor in load_tensors(folder.path / "rounds" / "000").items()}
    layout = strategy.lay_out(shapes)
    found: list[float] = []
    for number, updates in enumerate(sent):
        before = folder.load_adapter(number, layout)
        adapters = [layout.apply(before, update) for update in updates]
        found += averaging_error(layout, adapters).values()
    return statistics.fmean(found)


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
        names = ("rule", "epsilon", "rate", "seed", "rounds", "limit", "quick")
        return (*(line[name] for name in names), *line["more"])


class Shown(Results):
    """The same, of which nothing is run that has not been."""

    def get(self, **wanted: Any) -> dict[str, Any]:
        return self._found.get(self._key(wanted), wanted | {"failed": "not run yet"})


def rate_for(results: Results, rule: str, epsilon: str, **size: Any) -> float | None:
    """A rule's rate; None if none works."""
    return best_rate(results, TUNED[kind_of(rule)] if size["quick"] else rule, epsilon, **size)


def kind_of(rule: str) -> str:
    """What a rule trains, as ``TUNED`` has it."""
    strategy = find_strategy(rule).model_construct()
    if strategy.cored or strategy.needs_head:
        return "core" if strategy.cored else "head"
    return "A and B" if strategy.trains("layer.lora_A.weight") else "B"


def best_rate(results: Results, rule: str, epsilon: str, **size: Any) -> float | None:
    """The rate with the lowest held-out loss on the seed that rates are chosen on; None if none works."""
    seed = TUNED_ON[size["quick"]]
    tried = [results.get(rule=rule, epsilon=epsilon, rate=rate, seed=seed, **size) for rate in RATES]
    worked = [one for one in tried if "failed" not in one]
    return min(worked, key=lambda one: one["loss"])["rate"] if worked else None


def compared(
    results: Results,
    rules: Iterable[str],
    epsilons: Iterable[str],
    *,
    rate: float | None,
    repeats: int,
    **size: Any,
) -> list[dict[str, Any]]:
    """A row for each rule and ε, at one rate or at the best."""
    pairs = [(rule, epsilon) for epsilon in epsilons for rule in rules]
    rates = {pair: rate or rate_for(results, *pair, **size) for pair in pairs}
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for seed in SEEDS[size["quick"]][:repeats]:
        for (rule, epsilon), chosen in rates.items():
            if chosen is not None:
                one = results.get(rule=rule, epsilon=epsilon, rate=chosen, seed=seed, **size)
                found[rule, epsilon].append(one)
    return [
        {"rule": pair[0], "epsilon": pair[1], "rate": chosen} | _row(found[pair])
        for pair, chosen in rates.items()
    ]


def _row(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What some runs came to together."""
    worked = [one for one in runs if "failed" not in one]
    row: dict[str, Any] = {"runs": len(worked)}
    for key in ("accuracy", "bytes", "numbers", "seconds", "missed"):
        values = [one[key] for one in worked if key in one]
        if values:
            row[key] = statistics.fmean(values)
    if len(worked) > 1:
        row["deviation"] = statistics.stdev(one["accuracy"] for one in worked)
    return row


def as_table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table of Markdown."""
    lines = [
        "| rule | ε | rate | accuracy | runs | numbers trained | kB a round | s a round | averages miss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        begin = f"| `{row['rule']}` | {row['epsilon']} |"
        if not row["runs"]:
            lines.append(f"{begin} | does not go with it | 0 | | | | |")
            continue
        spread = f" ± {100 * row['deviation']:.1f}" if "deviation" in row else ""
        missed = f"{100 * row['missed']:.0f} %" if "missed" in row else ""
        lines.append(
            f"{begin} {row['rate']:g} | {100 * row['accuracy']:.1f} %{spread} | {row['runs']} "
            f"| {row['numbers']:,.0f} | {row['bytes'] / 1000:,.1f} | {row['seconds']:.2f} | {missed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rules", default=",".join(listed_strategies()))
    parser.add_argument("--epsilons", default=",".join(EPSILONS))
    parser.add_argument("--repeats", type=int, choices=range(1, 6), default=3)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="more")
    parser.add_argument("--rate", type=float, help="in place of the best")
    parser.add_argument("--quick", action="store_true", help="an hour in place of days")
    parser.add_argument("--print", action="store_true", help="what there is so far, and run nothing")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    limit = QUICK_LIMIT if asked.quick and asked.limit is None else asked.limit
    rounds = asked.rounds or ROUNDS[asked.quick]
    size = {"rounds": rounds, "limit": limit, "quick": asked.quick, "more": asked.more}
    results = (Shown if asked.print else Results)(asked.results)
    epsilons = asked.epsilons.split(",")
    asked_for = {"rate": asked.rate, "repeats": asked.repeats}
    rows = compared(results, asked.rules.split(","), epsilons, **asked_for, **size)
    print(json.dumps(rows) if asked.json else as_table(rows))


if __name__ == "__main__":
    main()
