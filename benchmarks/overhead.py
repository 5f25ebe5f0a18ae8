"""What a federation adds to a round beyond training: three sites on this machine, TLS, node authentication.

Sites train for an instant, so that a round is all transport. Beside it stock Flower: the same certificates
and keys, plain messages, Flower's own intervals, ``Grid.send_and_receive``.

Run from the repository's root: PYTHONPATH=. python benchmarks/overhead.py [--rounds 8] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from federation_stages import STAGES, TRAINING, Exchanges, Watch, read_exchanges
from processes import end_in_order
from stock_flower import stock_seconds

from runs.run_folder import RunFolder
from tests.federation.local import SITES, LocalFederation, local_federation

SETTINGS = (
    *("training.local_steps=1", "training.batch_size=8", "training.physical_batch_size=8"),
    *("data.limit=32", "federation.deadline=120"),
)


def main() -> None:
    end_in_order()
    options = _options()
    with ExitStack() as stack:
        place = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        with local_federation(Path(place) / "f") as federation:
            load = [os.getloadavg()[0]]
            exchanges, walls, processor = measure(federation, rounds=options.rounds)
            load.append(os.getloadavg()[0])
        stock = [] if options.without_stock else stock_seconds(federation, rounds=options.rounds)
    found = _found(exchanges, walls, processor)
    found["load_average"] = load
    if stock:
        found["stock_seconds_a_message"] = statistics.median(stock)
        found["stock_seconds_a_message_all"] = stock
        found["stock_load_average"] = os.getloadavg()[0]
    print(json.dumps(_rounded(found)) if options.json else _table(_rounded(found)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--without-stock", action="store_true")
    parser.add_argument("--keep", type=Path, help="a new folder for the federation and its logs")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(federation: LocalFederation, *, rounds: int) -> tuple[Exchanges, dict[int, float], list[float]]:
    """A run's exchanges, its rounds' seconds, and the processor seconds of each ClientApp process."""
    homes = {site: federation.home(site) for site in SITES}
    watch = Watch(
        {site: home / "relay/flower/supernode.log" for site, home in homes.items()},
        {site: federation.log / f"agent-{site}.log" for site in SITES},
        {site: federation.processes[f"relay-{site}"].pid for site in SITES},
    )
    with ExitStack() as stack:
        watch.start()
        stack.callback(watch.stop)
        words = [
            word for setting in (*SETTINGS, f"training.rounds={rounds}") for word in ("--set", setting)
        ]
        run = federation.start_run(*words)
        if federation.wait(run, seconds=60 * rounds + 120) != 0:
            raise RuntimeError(federation.said())
        time.sleep(0.5)  # what the SuperNodes say last
    folder = RunFolder.open(federation.coordinator / "runs" / "run")
    exchanges = read_exchanges(folder.path, watch)
    return exchanges, _walls(exchanges, folder), sorted(watch.processor.values())


def _walls(exchanges: Exchanges, folder: RunFolder) -> dict[int, float]:
    """Seconds from a round's requests to the next round's; of the last, to its end."""
    sent = {exchange.round: exchange.times[0] for exchange in exchanges.slowest()}
    if not sent:
        raise RuntimeError("no request could be followed through the logs")
    walls = {number: sent[later] - sent[number] for number, later in pairwise(sorted(sent))}
    last = max(sent)
    return walls | {last: folder.records()[last - 1].seconds}


def _found(exchanges: Exchanges, walls: dict[int, float], processor: list[float]) -> dict[str, object]:
    # The first round's messages wait for an agent that loads and checks its model.
    slowest = [exchange for exchange in exchanges.slowest() if exchange.round > 1]
    training = {
        number: max(site.training for site in exchanges.complete if site.round == number)
        for number in walls
    }
    beyond = [walls[number] - training[number] for number in walls if number > 1]
    waits = [exchange.times[1] - exchange.times[0] for exchange in exchanges.complete]
    between = [
        walls[exchange.round] - (exchange.times[-1] - exchange.times[0])
        for exchange in slowest
        if exchange.round in walls
    ]
    stages = {
        name: statistics.median(exchange.stages[number] for exchange in slowest)
        for number, name in enumerate(STAGES)
    }
    return {
        "rounds": len(beyond),
        "seconds_beyond_training_median": statistics.median(beyond),
        "seconds_beyond_training_all": beyond,
        "training_median": statistics.median(training.values()),
        "stages_of_the_slowest_site": stages
        | {"coordinator: average, score, write": statistics.median(between)},
        "stage_that_is_training": STAGES[TRAINING],
        "poll_waits_median": statistics.median(waits),
        "clientapp_processor_seconds_median": statistics.median(processor),
        "requests": len(exchanges.complete),
        "requests_left_out": exchanges.torn,
    }


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 2)
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
