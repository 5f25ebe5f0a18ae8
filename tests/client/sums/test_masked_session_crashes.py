"""A site's process may end at any moment: nothing has left, or will, that uncovers an update."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client.sums.masked_session import MaskedSession
from privacy.durable import write_durably
from privacy.errors import AggregationError
from privacy.secagg.masks.coordinator_steps import add_up, forward
from tests.client.masked import (
    ASKED,
    COUNT,
    RING,
    SITE,
    SIZE,
    Federation,
    make_federation,
    make_session,
    uncovered,
    vector,
)
from tests.privacy.exchanges import make_rules, names

ALL = names(COUNT)
OTHERS = [site for site in ALL if site != SITE]

# A crash at every write: what left before it and what leaves after it fit together.


class CrashError(Exception):
    """The process ends here."""


LISTS = [ALL, [site for site in ALL if site != OTHERS[0]], [site for site in ALL if site != OTHERS[1]]]


def drive(federation: Federation, restart: Callable[[], MaskedSession]) -> int:
    """Three sums with one that comes back after each crash and is asked for more than it may do.

    What the sums were is checked; returned is how many steps ended in a crash.
    """
    crashes = 0

    def attempt(act: Callable[[], Any]) -> Any:
        nonlocal crashes
        try:
            return act()
        except CrashError:
            crashes += 1
            federation.sessions[SITE] = restart()
        except AggregationError:
            pass
        return None

    for number in (1, 2, 3):
        roster = federation.roster(number)
        dealings = federation.deal(roster, OTHERS)
        while SITE not in dealings:
            dealings |= attempt(partial(federation.deal, roster, [SITE])) or {}
        cohorts = forward(roster, dealings, asked=ASKED)
        masked = {site: federation.contribute(site, cohorts[site], number)[0] for site in OTHERS}
        plain = {site: vector(site, number) for site in OTHERS}
        for salt in (0, 1, 0):
            found = attempt(partial(federation.contribute, SITE, cohorts[SITE], number, salt=salt))
            if found is not None and SITE not in masked:
                masked[SITE], plain[SITE] = found[0], vector(SITE, number, salt=salt)
        for survivors in LISTS if federation.rules.confirm else []:
            attempt(partial(federation.confirm, SITE, roster, cohorts[SITE], survivors))
        for survivors in [*LISTS, *LISTS]:
            attempt(partial(federation.reveal, SITE, roster, cohorts[SITE], survivors))
        alive = sorted(masked)
        shares = {site: federation.reveal(site, roster, cohorts[site], alive) for site in OTHERS}
        total = uncovered(roster, cohorts[OTHERS[0]], masked, alive, shares)
        assert (total == add_up(plain.values(), ring=RING, size=SIZE)).all()
    return crashes


# A run without confirmation relies on single shares alone. Three sums of five writes, of which one is
# a signature's second, or of three.
CONFIRM = {True: range(1, 16), False: range(1, 10)}


def crashed(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, confirm: bool, when: int, fate: str
) -> list[str]:
    """What was too much of what left, if the process ends, or does not write, at one of its writes."""
    rules = make_rules(COUNT, confirm=confirm)
    federation, left = make_federation(path, rules), when

    def write(*arguments: Any, **options: Any) -> None:
        nonlocal left
        left -= 1
        if left != 0 or fate == "after":
            write_durably(*arguments, **options)
        if left == 0 and fate != "never":
            raise CrashError

    monkeypatch.setattr("client.sums.run_secrets.write_durably", write)
    crashes = drive(federation, lambda: make_session(path=path, rules=rules))
    assert crashes == (fate != "never")
    return federation.left.broken


@pytest.mark.parametrize("fate", ["before", "after"])
@pytest.mark.parametrize(
    ("confirm", "when"), [(confirm, when) for confirm, writes in CONFIRM.items() for when in writes]
)
@pytest.mark.exhaustive(but=16)
def test_a_crash_at_any_write_uncovers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confirm: bool, when: int, fate: str
) -> None:
    path = tmp_path / "secrets.json"
    assert crashed(path, monkeypatch, confirm=confirm, when=when, fate=fate) == []


@pytest.mark.parametrize("confirm", CONFIRM)
def test_a_site_that_answers_without_writing_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confirm: bool
) -> None:
    """Control: of the steps of a sum, each but dealing leaves something that must not leave twice."""
    found = set()
    for when in CONFIRM[confirm]:
        path = tmp_path / str(when) / "secrets.json"
        found |= set(crashed(path, monkeypatch, confirm=confirm, when=when, fate="never"))
    twice = {f"{SITE} revealed both secrets of a dealing of {OTHERS[0]}"}
    lists = {f"{SITE} signed two lists of survivors"}
    assert found == {f"{SITE} masked two vectors under one dealing"} | (lists if confirm else twice)
