"""The direction of imports, as docs/design.md draws it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"confide", "simulation", "server", "client", "runs", "strategies", "tasks", "protocol", "privacy"}
MAY_IMPORT = {
    "privacy": set(),
    "protocol": {"privacy"},
    "strategies": {"protocol", "privacy"},
    "tasks": {"protocol", "privacy"},
    "runs": {"tasks", "protocol", "privacy"},
    "client": {"tasks", "protocol", "privacy"},
    "server": {"strategies", "runs", "tasks", "protocol", "privacy"},
    "simulation": OURS - {"simulation", "confide"},
    "confide": OURS - {"confide"},
}


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def breaches(package: str, imported: set[str]) -> set[str]:
    """What ``package`` imports against the design."""
    forbidden = (imported & OURS) - MAY_IMPORT[package] - {package}
    if package == "privacy":
        forbidden |= imported & {"flwr"}
    return forbidden


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_follow_the_design(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {path.name: breaches(package, imported_packages(path)) for path in files}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_a_breach_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "rogue.py"
    path.write_text("def f():\n    from server.rounds import run_rounds\n    import flwr\n")
    assert breaches("client", imported_packages(path)) == {"server"}
    assert breaches("privacy", imported_packages(path)) == {"server", "flwr"}


# Flower's own secure aggregation is what this one measures.
FLOWERS_INTERNALS = {
    ROOT / "protocol/processes/flower_aggregation.py",
    ROOT / "protocol/processes/flower_internals.py",
    ROOT / "server/service/lean_superlink.py",
    ROOT / "benchmarks/flower_secagg.py",
}
DOCUMENTED = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}


def test_flower_is_used_as_documented_but_in_these_files() -> None:
    found = set()
    for path in {*ROOT.glob("*/**/*.py")} - FLOWERS_INTERNALS - {*ROOT.glob(".venv/**/*.py")}:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found |= {(path.name, name) for name in modules if name.startswith("flwr.")}
    undocumented = {name for name, module in found if module not in DOCUMENTED}
    assert undocumented == {"test_flower_contract.py", "test_lean_superlink.py", "test_one_piece.py"}


def test_init_files_are_empty() -> None:
    for package in OURS - {"confide"}:
        assert (ROOT / package / "__init__.py").read_text() == "", package
