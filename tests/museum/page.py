"""docs/museum.md, from the exhibits and what they show."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tests.museum.exhibit import Exhibit, Shown, Thread

_WIDTH = 140
_NOT_FOUND = "no audit by itself"
_HEADING = "# The museum of silent failures\n"
_INTRODUCTION = (
    "Privacy code fails silently: the loss falls, an ε is printed, nothing crashes. Each exhibit is a "
    "fault that was public, in most cases shipped in a release, made again in small by code of our "
    "own in [`tests/museum/`](../tests/museum/). It tells what shipped, what whoever ran it saw, what "
    "the audits of this project say of it, and why it cannot happen here. Nobody is singled out: "
    "these are the projects that work in the open, and their reports are how the rest of us learn.",
    "Of {count} exhibits {found} are found by an audit alone, which passes the same thing done right: "
    "{always} by what is done before every run or by one command, {calls} by many runs. `python "
    "tools/museum_page.py` writes this page from what the exhibits show, and a test holds it to that.",
    "What looks: the **unit check** tries each model on a made-up batch before every run. The "
    "**one-run audit** is `confide audit empirical`, here on 400 canaries in 8 releases, for a plan "
    "of ε = 3 at δ = 1e-5; its **draws** are how often each canary was drawn. **Many runs** is an "
    "attack made for the occasion and repeated, with exact intervals: a call, not a command "
    "([audit.md](audit.md) has all of these). The **ledger's audit** is `confide audit ledger`, whose "
    "**second accountant** shares no code with the first, and the **run's audit** is `confide audit "
    "run`. Lower bounds hold with a confidence of 95 %.",
)


def render(shown: Sequence[tuple[Exhibit, Shown]]) -> str:
    """The whole page."""
    told = [_filled(text.format(**counts([exhibit for exhibit, _ in shown]))) for text in _INTRODUCTION]
    parts = [_HEADING, *told, _table([exhibit for exhibit, _ in shown])]
    parts += [section(number, e, s) for number, (e, s) in enumerate(shown, start=1)]
    return "\n".join(parts)


def counts(exhibits: Sequence[Exhibit]) -> dict[str, int]:
    """How many there are, how many are ``found``, and how many of these by what a run or a command does."""
    found = [one for one in exhibits if one.found_by is not None]
    always = sum(one.found_by != "many runs" for one in found)
    return {"count": len(exhibits), "found": len(found), "always": always, "calls": len(found) - always}


def section(number: int, exhibit: Exhibit, shown: Shown) -> str:
    """One exhibit, with its figures in place."""
    told = {name: getattr(exhibit, name).format(**shown.figures) for name in ("seen", "says")}
    text = (
        f"{exhibit.shipped} ({', '.join(map(_link, exhibit.threads))}) **Seen:** {told['seen']} "
        f"**The audit:** {told['says']} **Not here:** {exhibit.here}"
    )
    return f"## {number}. {exhibit.title}\n\n{_filled(text)}"


def _table(exhibits: Sequence[Exhibit]) -> str:
    rows = [
        f"| {number} | [{one.title}](#{_anchor(number, one.title)}) | {one.found_by or _NOT_FOUND} |"
        for number, one in enumerate(exhibits, start=1)
    ]
    return "\n".join(["| | fault | found by |", "|---|---|---|", *rows]) + "\n"


def _anchor(number: int, title: str) -> str:
    """As GitHub makes it of a heading."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return f"{number}-{kept.replace(' ', '-')}"


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _link(thread: Thread) -> str:
    return f"[{thread.name}]({thread.url})" + (f", {thread.note}" if thread.note else "")
