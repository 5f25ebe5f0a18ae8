"""``requirements.lock``: what it must hold, and its renewal by pip's own resolver.

``python tools/lock.py [NAME …]`` renews every pin, or the named ones and what these need then, to the
newest that ``pyproject.toml`` allows, and prints what changed. It asks pip what it would install into the
environment that it runs in, which is the lock's. Two kinds of pins it leaves: torch, which comes in many
builds, and the demo's packages, which are wanted for their files and not for what they require.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
WITHDRAWN = Path(__file__).with_name("withdrawn.toml")

_LEFT = {"torch"}


def read_pins(text: str) -> dict[str, str]:
    """A lock's versions by canonical name (PEP 503). Raises ValueError for a line that pins nothing."""
    pins: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, version = line.partition("==")
        if not version or canonicalize_name(name) in pins:
            raise ValueError(f"expected NAME==VERSION, and each name once, got {line!r}")
        pins[canonicalize_name(name)] = version
    return pins


def read_requirements(project: str, *, demo: bool = True) -> list[Requirement]:
    """All that a ``pyproject.toml`` asks for, with every extra, or every one but the demo's."""
    table = tomllib.loads(project)["project"]
    extras = table["optional-dependencies"]
    chosen = [lines for name, lines in extras.items() if demo or name != "demo"]
    return [Requirement(line) for lines in (table["dependencies"], *chosen) for line in lines]


def problems(
    pins: Mapping[str, str], requirements: Iterable[Requirement], withdrawn: Iterable[Mapping[str, str]]
) -> list[str]:
    """What is wrong with a lock, a sentence each: pins that are absent, out of bounds, or withdrawn."""
    found = []
    for need in requirements:
        pin = pins.get(canonicalize_name(need.name))
        if pin is None:
            found.append(f"{need.name} is required and not in the lock")
        elif not need.specifier.contains(pin, prereleases=True):
            found.append(f"{need.name} {pin} is in the lock, and pyproject.toml asks for {need.specifier}")
    for entry in withdrawn:
        pin = pins.get(canonicalize_name(entry["package"]))
        if pin is not None and SpecifierSet(entry["versions"]).contains(pin, prereleases=True):
            found.append(f"{entry['package']} {pin} must not be used: {entry['reason']}")
    return found


def read_withdrawn() -> list[dict[str, str]]:
    """The table of versions that must not be used."""
    entries: list[dict[str, str]] = tomllib.loads(WITHDRAWN.read_text())["withdrawn"]
    return entries


def renewed(lock: str, resolved: Mapping[str, str]) -> tuple[str, list[str]]:
    """A lock's text with what pip ``resolved``, by name as pip writes it, and the changes, a line each."""
    pins, names = read_pins(lock), {}
    for line in filter(None, map(str.strip, lock.splitlines())):
        names[canonicalize_name(line.partition("==")[0])] = line.partition("==")[0]
    changes = []
    for name, version in sorted(resolved.items(), key=lambda item: item[0].lower()):
        key = canonicalize_name(name)
        if pins.get(key) != version:
            changes.append(f"{name}: {pins.get(key, 'new')} -> {version}")
        pins[key] = version
        names.setdefault(key, name)
    lines = [f"{names[key]}=={pins[key]}" for key in sorted(pins, key=lambda key: names[key].lower())]
    return "\n".join([*lines, ""]), changes


def ask_pip(lock: str, project: str, only: Iterable[str]) -> dict[str, str]:
    """What pip would install here instead of what is installed, by name as pip writes it.

    Raises CalledProcessError if pip finds no versions that fit.
    """
    wanted = [need for need in read_requirements(project, demo=False) if need.name not in _LEFT]
    left = [f"{name}=={version}" for name, version in read_pins(lock).items() if name in _LEFT]
    bounds = [f"{need.name}{need.specifier}" for need in wanted]  # a constraint has no extras
    only = list(only)
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        constraints.write_text("\n".join([*bounds, *left, ""]))
        command = [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--upgrade"),
            *("--upgrade-strategy", "only-if-needed" if only else "eager"),
            *("--report", str(report), "--constraint", str(constraints)),
            *(only or [*map(str, wanted), *left]),
        ]
        subprocess.run(command, check=True)  # noqa: S603  # no shell
        answer = json.loads(report.read_text())
    found = (item["metadata"] for item in answer["install"])
    return {item["name"]: item["version"] for item in found if canonicalize_name(item["name"]) not in _LEFT}


def main(only: list[str]) -> int:
    """Renew the lock, unless what pip chose must not be used."""
    project = (ROOT / "pyproject.toml").read_text()
    text, changes = renewed(LOCK.read_text(), ask_pip(LOCK.read_text(), project, only))
    wrong = problems(read_pins(text), read_requirements(project), read_withdrawn())
    if wrong:
        print("The lock stays as it is:", *wrong, sep="\n", file=sys.stderr)
        return 1
    LOCK.write_text(text)
    print(*(changes or ["nothing changed"]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
