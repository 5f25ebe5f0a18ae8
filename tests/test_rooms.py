"""The rooms inside each package: who may import whom, one name a file, and no file too long to read."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "client",
    "confide",
    "privacy",
    "protocol",
    "runs",
    "server",
    "simulation",
    "strategies",
    "tasks",
)
GENERATED = {"confide_pb2", "confide_pb2_grpc"}
LONGEST = 350

# A folder of a package, and the other folders of that package that it may import. What stands beside
# folders is under all of them, if it imports none, or over all of them, if none imports it.
MAY_IMPORT: Mapping[str, set[str]] = {
    "client.agent": {"client", "client.custody", "client.relay", "client.training"},
    "client.custody": set(),
    "client.relay": {"client.custody"},
    "client.sums": set(),
    "client.training": set(),
    "privacy.accounting": {"privacy.mechanisms"},
    "privacy.audit": set(),
    "privacy.ledger": {"privacy.accounting"},
    "privacy.mechanisms": set(),
    "privacy.secagg": {"privacy.mechanisms"},
    "privacy.secagg.ckks": {"privacy.secagg.masks"},
    "privacy.secagg.masks": set(),
    "protocol.job": set(),
    "protocol.messages": set(),
    "protocol.processes": set(),
    "protocol.sums": {"protocol.job", "protocol.messages"},
    "runs.quantized": set(),
    "runs.report": set(),
    "server.post": set(),
    "server.provisioning": set(),
    "server.service": {"server.provisioning"},
    "server.sums": {"server.post"},
    "simulation.attack": set(),
    "simulation.attack.page": set(),
    "simulation.forecast": set(),
    "simulation.progression": set(),
    "tasks.data": set(),
    "tasks.model": {"tasks.data"},
}


def read_house(root: Path) -> dict[str, set[str]]:
    """Each module of ours, and the modules of ours that it imports when it runs, wherever in it."""
    modules = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            modules[".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = path
    return {name: set(_imported(path, modules)) for name, path in modules.items()}


def _imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # what only annotations name ties nothing together
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from {inner if inner in modules else node.module} & modules.keys()
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & modules.keys()


def room(module: str) -> str:
    """The folder that a module stands in."""
    return module.rpartition(".")[0]


def is_ground(module: str, house: Mapping[str, set[str]]) -> bool:
    """Whether a module imports none of the folders that stand beside it."""
    beside = f"{room(module)}."
    return not any(
        f"{room(found)}.".startswith(beside) and room(found) != room(module) for found in house[module]
    )


def breaches(house: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """What imports against ``MAY_IMPORT``: (module, what it imports)."""
    found = set()
    for module, imported in house.items():
        here = room(module)
        for other in imported:
            there = room(other)
            if there == here or not there or there.split(".")[0] != module.split(".")[0]:
                continue
            inwards = f"{there}.".startswith(f"{here}.")
            outwards = f"{here}.".startswith(f"{there}.") and is_ground(other, house)
            if not (inwards or outwards or there in MAY_IMPORT[here]):
                found.add((module, other))
    return found


@pytest.fixture(scope="module")
def house() -> dict[str, set[str]]:
    return read_house(ROOT)


def test_rooms_import_as_they_may(house: dict[str, set[str]]) -> None:
    assert len(house) > 200
    assert breaches(house) == set()


def test_no_modules_import_each_other_in_a_circle(house: dict[str, set[str]]) -> None:
    TopologicalSorter(house).prepare()


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("client.custody.home", "client.site"),  # what stands over it
        ("client.sums.residual", "client.custody.home"),  # a room beside it
        ("privacy.mechanisms.rng", "privacy.accounting.plan"),
        ("protocol.messages.envelope", "protocol.sums.masks_kind"),
    ],
)
def test_a_breach_is_seen(house: dict[str, set[str]], module: str, other: str) -> None:
    assert {module, other} <= house.keys()
    changed = house | {module: house[module] | {other}}
    assert breaches(changed) == {(module, other)}


def test_a_circle_is_seen(house: dict[str, set[str]]) -> None:
    changed = house | {"privacy.errors": {"privacy.ledger.ledger"}}
    with pytest.raises(CycleError):
        TopologicalSorter(changed).prepare()


def test_a_name_is_one_files() -> None:
    names = Counter(
        path.stem
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.stem not in {"__init__", "__main__"}
    )
    assert {name for name, count in names.items() if count > 1} == set()


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.stem not in GENERATED
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}
