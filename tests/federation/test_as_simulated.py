"""A federation makes the adapter that a simulation makes of the same job and data, rule by rule."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tasks.registry import read_job
from tests.federation.local import SITES, LocalFederation

# Two whose messages differ most: other tensors in each round, and sketches in place of tensors. A run takes
# a minute of a processor; to look at every rule that works under masks, name them here.
RULES = ("rolora", "fedask")
ROWS = 24  # a site's: all are in each step's batch, so that who is drawn is no matter of chance
ROUNDS = 2
# Without noise: a real site has no seed that could repeat it. Masks, grid and all else are there.
JOB = (
    'privacy.mechanism="none"',
    f"training.rounds={ROUNDS}",
    "training.local_steps=2",
    f"training.batch_size={ROWS}",
    f"training.physical_batch_size={ROWS}",
    "training.learning_rate=0.5",
    "adapter.rank=2",
    "adapter.layers_to_transform=[1]",
    "data.max_length=16",
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    made = LocalFederation(tmp_path_factory.mktemp("federation"))
    try:
        _take_few_rows(made)
        made.start_server()
        for site in SITES:
            made.start_site(site)
        made.wait_for_sites()
        yield made
    finally:
        made.close()


def _take_few_rows(federation: LocalFederation) -> None:
    """The first rows of each site's data stay, and are together in one file, each with its site's name."""
    together = []
    for site in SITES:
        path = federation.folder / "data" / f"{site}.csv"
        heading, *rows = list(csv.reader(path.open(newline="")))
        _write(path, [heading, *rows[:ROWS]])
        together += [[*row, site] for row in rows[:ROWS]]
        rules = federation.home(site) / "site.toml"
        table = tomllib.loads(rules.read_text())
        table["rules"]["mechanisms"] = ["none"]
        rules.write_text(tomli_w.dumps(table))
    _write(federation.folder / "data" / "all.csv", [[*heading, "site"], *together])


def _write(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)


def _meaning(folder: RunFolder, number: int) -> dict[str, np.ndarray]:
    """What a model makes of an adapter, by layer: the head, and the product of each pair or core."""
    layout = World(folder.manifest.job).adapted.layout
    tensors = layout.split(folder.load_adapter(number, layout))
    found = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    for pair in layout.pairs:
        core = tensors.get(pair.a.replace(".lora_A.", ".lora_C."))
        first = tensors[pair.a] if core is None else core @ tensors[pair.a]
        found[pair.b] = tensors[pair.b] @ first
    return found


@pytest.mark.process
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RULES)
def test_the_adapters_are_the_same(federation: LocalFederation, tmp_path: Path, name: str) -> None:
    settings = (*JOB, f"model.source={federation.folder / 'model'}", f"strategy.name={name}")
    words = [word for setting in settings for word in ("--set", setting)]
    assert federation.wait(federation.start_run(*words, name=name)) == 0, federation.said()
    real = RunFolder.open(federation.coordinator / "runs" / name)
    own = (
        f"data.source={federation.folder / 'data' / 'all.csv'}",
        f"data.validation={federation.folder / 'data' / 'held-out.csv'}",
        'federation.partition={ column = "site" }',
    )
    run = simulate(read_job(federation.job, settings=[*settings, *own]), runs=tmp_path, workers=1)
    simulated = RunFolder.open(run.folder)
    start = _meaning(simulated, 0)
    expected, found = _meaning(simulated, ROUNDS), _meaning(real, ROUNDS)
    assert found.keys() == expected.keys()
    assert real.manifest.job.aggregation.kind == simulated.manifest.job.aggregation.kind == "masks"
    for part, wanted in expected.items():
        moved = np.abs(wanted - start[part]).max()
        # A sum's grid has 2^32 steps for all that updates may be, of which these are a small part, and
        # examples round otherwise in other batches: far below what rounds, rules or seeds make different.
        np.testing.assert_allclose(found[part], wanted, atol=1e-3 * max(moved, 1e-2))
    # The same start, to the last bit, and it was left.
    assert all(np.array_equal(found, start[part]) for part, found in _meaning(real, 0).items())
    assert max(np.abs(expected[part] - start[part]).max() for part in expected) > 1e-2
    assert json.loads((real.path / "facts.json").read_text())["federation"] == "three-clinics"
