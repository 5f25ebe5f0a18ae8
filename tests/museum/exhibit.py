"""What an exhibit of docs/museum.md is: a public fault, made again in small, and what audits say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Thread:
    """Where the fault is told of in public; ``note`` says what of it was read, if not the thread."""

    name: str
    url: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What came of the broken variant and of the right one.

    ``flagged`` is whether the fault is found, ``control`` whether the same look flags what is right.
    ``figures`` fill the exhibit's text.
    """

    flagged: bool
    control: bool
    figures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One fault. Texts have ``{figures}``; ``found_by`` is None where no audit finds it.

    ``show`` makes fault and control, in a folder of its own.
    """

    title: str
    threads: tuple[Thread, ...]
    shipped: str
    seen: str
    says: str
    here: str
    found_by: str | None
    show: Callable[[Path], Shown]
