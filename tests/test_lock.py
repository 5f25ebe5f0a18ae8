"""The lock has all that is asked for, within its bounds, nothing else, and nothing that was withdrawn."""

from __future__ import annotations

from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.lock import LOCK, ROOT, problems, read_pins, read_requirements, read_withdrawn, renewed

PROJECT = (ROOT / "pyproject.toml").read_text()
SMALL = """
[project]
dependencies = ["flwr>=1.42,<1.43", "some_thing"]
[project.optional-dependencies]
demo = ["pictures==1"]
"""
GOOD = "Some-Thing==2\nflwr==1.42.0\npictures==1\n"


def judge(lock: str) -> list[str]:
    return problems(read_pins(lock), read_requirements(SMALL), read_withdrawn())


def test_the_lock_is_in_order() -> None:
    assert problems(read_pins(LOCK.read_text()), read_requirements(PROJECT), read_withdrawn()) == []


def test_the_lock_has_what_is_needed_and_nothing_else() -> None:
    """As the installed packages say. What the demo's require is not installed: they bring files alone."""
    needed, seen = {canonicalize_name(need.name) for need in read_requirements(PROJECT)}, set()
    waiting = [
        (need, extra) for need in read_requirements(PROJECT, demo=False) for extra in ("", *need.extras)
    ]
    while waiting:
        need, extra = waiting.pop()
        name = canonicalize_name(need.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for inner in map(Requirement, requires(name) or []):
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                waiting += [(inner, other) for other in ("", *inner.extras)]
    assert needed | {name for name, _ in seen} == set(read_pins(LOCK.read_text()))


def test_pins_that_are_absent_or_out_of_bounds_are_seen() -> None:
    assert judge(GOOD) == []
    assert judge(GOOD.replace("1.42.0", "1.43.0")) == [
        "flwr 1.43.0 is in the lock, and pyproject.toml asks for <1.43,>=1.42"
    ]
    assert judge("flwr==1.42.0\npictures==1\n") == ["some_thing is required and not in the lock"]
    assert judge(GOOD.replace("pictures==1", "pictures==2")) == [
        "pictures 2 is in the lock, and pyproject.toml asks for ==1"
    ]


@pytest.mark.parametrize("version", ["2026.10.18", "2026.7.22"])
def test_a_withdrawn_pin_is_seen(version: str) -> None:
    assert judge(f"{GOOD}certifi=={version}\n") == [
        f"certifi {version} must not be used: trusts a certificate authority that was compromised"
    ]
    assert judge(f"{GOOD}certifi==2026.10.19.post1\n") == []


def test_every_entry_of_the_table_is_a_version_and_a_reason() -> None:
    for entry in read_withdrawn():
        assert entry.keys() == {"package", "versions", "reason"}
        assert entry["reason"]
        assert Requirement(f"{entry['package']}{entry['versions']}").specifier


@pytest.mark.parametrize("line", ["flwr>=1.42", "flwr", "flwr==1.42.0\nFLWR==1.42.0"])
def test_a_line_that_pins_nothing_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expected NAME==VERSION"):
        read_pins(line)


def test_a_renewal_changes_what_pip_changed_and_says_so() -> None:
    text, changes = renewed(GOOD, {"some-thing": "3", "Added": "1.0", "flwr": "1.42.0"})
    assert text == "Added==1.0\nflwr==1.42.0\npictures==1\nSome-Thing==3\n"
    assert changes == ["Added: new -> 1.0", "some-thing: 2 -> 3"]
    assert renewed(text, {}) == (text, [])
