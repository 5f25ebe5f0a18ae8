"""What each way to get more out of the same ε is worth: held-out accuracy over paired seeds.

``python benchmarks/utility.py examples/tweets.toml --to utility.jsonl`` simulates the job under each of
``CONDITIONS`` at each ε, once a seed, and adds a line to the file for each run: one that is there is not
made again, so that a stopped measurement goes on. What has no noise has no ε: it is made once a seed, and
stands in each table. ``--print`` makes the tables of docs/tuning.md of the
file. A seed is that of data, adapter and noise: it decides who is held out and which site has which
examples, so that conditions are compared on the same split, seed by seed. Learning rates are the job's
own: others are to be chosen on seeds that are not in the table, with ``--seed``, ``--set`` and a name for
it, ``--beside``. ``--only`` names some of the conditions; ``--public`` is a file of public texts, one a
line, for the one that needs it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol.job.job import Job

PLAIN = "plain"
_NOISELESS = 'privacy.mechanism="none"'
_SHRUNK = ('training.shrink="singular"',)
_FFA = ('strategy.name="ffa"',)
_HEADS = (
    'phase=[{ name = "heads", rounds = 3, train = "head", decay = "none", share = 0.2 }, '
    '{ name = "adapter", rounds = 5, share = 0.8 }]',
)
# A condition's settings beside the job's own; phases have the demo's eight rounds.
CONDITIONS: dict[str, tuple[str, ...]] = {
    PLAIN: _SHRUNK,
    "independent noise, ffa": (*_FFA, *_SHRUNK),
    "correlated noise, ffa": (*_FFA, *_SHRUNK, 'privacy.noise_correlation="auto"'),
    "heads first": (*_HEADS, *_SHRUNK),
    "B twice as fast": ("training.rates={ lora_B = 2.0 }", *_SHRUNK),
    "features around zero": ('model.features="{public}"', *_SHRUNK),
    "no noise": (_NOISELESS,),
    "no noise, no clipping, Adam": (
        _NOISELESS,
        "privacy.clipping_norm=1e6",
        'training.optimizer="adam"',
        "training.learning_rate=0.005",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("--to", type=Path, required=True, help="a file of JSON lines, which is added to")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--only", action="append", default=[], choices=tuple(CONDITIONS))
    parser.add_argument("--epsilon", type=float, action="append", default=[])
    parser.add_argument("--seed", type=int, action="append", default=[])
    parser.add_argument(
        "--beside", default="", help="a name for what --set changes, beside the condition's"
    )
    parser.add_argument("--public", default="", help="a file of public texts, one a line")
    parser.add_argument("--print", action="store_true", dest="tables")
    asked = parser.parse_args()
    if asked.tables:
        _print(_lines(asked.to))
        return
    for seed in asked.seed or range(1, 6):
        for epsilon in asked.epsilon or (3.0, 1.0):
            for condition in asked.only or _all(asked):
                _measure(asked, condition, epsilon, seed)


def _all(asked: argparse.Namespace) -> list[str]:
    return [
        name
        for name, own in CONDITIONS.items()
        if asked.public or not any("{public}" in one for one in own)
    ]


def _measure(asked: argparse.Namespace, condition: str, at: float, seed: int) -> None:
    epsilon = None if _NOISELESS in CONDITIONS[condition] else at
    name = f"{condition}{asked.beside and ', '}{asked.beside}"
    known = {(line["condition"], line["epsilon"], line["seed"]) for line in _lines(asked.to)}
    if (name, epsilon, seed) in known:
        return
    from tasks.registry import read_job

    seeds = [f"seeds.{key}={seed}" for key in ("data", "adapter", "noise")]
    own = [one.replace("{public}", asked.public) for one in CONDITIONS[condition]]
    settings = [*own, *([] if epsilon is None else [f"privacy.epsilon={epsilon}"]), *seeds, *asked.settings]
    began = time.process_time()
    found = _scores(read_job(asked.job, settings=settings))
    line = {"condition": name, "epsilon": epsilon, "seed": seed, "settings": settings, **found}
    with asked.to.open("a") as file:
        file.write(json.dumps(line | {"seconds": round(time.process_time() - began)}) + "\n")


def _scores(job: Job) -> dict[str, Any]:
    """The last round's accuracy and loss, and those of the shrunk adapter beside it, if the job has one."""
    import confide
    from runs.averaged_adapter import read_average
    from runs.run_folder import RunFolder

    with tempfile.TemporaryDirectory() as place:
        run = confide.simulate(job, runs=Path(place), workers=1)
        last, kept = run.rounds[-1], read_average(RunFolder.open(run.folder))
        found: dict[str, Any] = {"accuracy": last.measures["accuracy"], "loss": last.loss}
        if kept is not None:
            found["shrunk"] = {"accuracy": kept.measures["accuracy"], "loss": kept.loss}
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _print(lines: Sequence[dict[str, Any]]) -> None:
    """Mean and deviation over the seeds, and of the difference to plain on the seeds that both have."""
    rows = [(line["condition"], line) for line in lines]
    rows += [(f"{line['condition']}, shrunk", line | line["shrunk"]) for line in lines if "shrunk" in line]
    for epsilon in sorted({line["epsilon"] for line in lines} - {None}, reverse=True):
        print(f"\n| ε = {epsilon:g} | seeds | accuracy | against {PLAIN} | held-out loss |")
        print("|---|---|---|---|---|")
        here = [(name, line) for name, line in rows if line["epsilon"] in (epsilon, None)]
        plain = {line["seed"]: line["accuracy"] for name, line in here if name == PLAIN}
        for name in dict.fromkeys(name for name, _ in here):
            own = [line for other, line in here if other == name]
            off = [line["accuracy"] - plain[line["seed"]] for line in own if line["seed"] in plain]
            loss = statistics.mean(line["loss"] for line in own)
            accuracy = _spread([line["accuracy"] for line in own])
            print(f"| {name} | {len(own)} | {accuracy} | {_spread(off, sign='+')} | {loss:.4f} |")


def _spread(values: Sequence[float], sign: str = "") -> str:
    """A mean and the deviation of one value, in percent."""
    if not values:
        return ""
    off = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):{sign}.2f}{off}"


if __name__ == "__main__":
    main()
