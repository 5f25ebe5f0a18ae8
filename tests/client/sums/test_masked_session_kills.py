"""A site that is killed again and again while it sums: what has left it, whenever, uncovers no update.

The coordinator and the other sites live in one process, the site in another, forked from it, with its
secrets in a file. Half of the kills come from outside at a moment that chance picks; half are the site's
own, at a call that chance picks, in writing its file or just after that. Then it is started again and asked
again, for the same and for something else.
"""

# ruff: noqa: S311

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from privacy.durable import write_durably
from privacy.errors import AggregationError
from privacy.secagg.masks.coordinator_steps import add_up, forward
from privacy.secagg.ring import Words
from privacy.secagg.roster import Cohort, Roster, Rules
from protocol.sums.mask_messages import read_dealing, read_shares, write_cohort, write_roster
from tests import children
from tests.client.masked import (
    ASKED,
    COUNT,
    RING,
    SITE,
    SIZE,
    Federation,
    listed,
    make_federation,
    make_session,
    uncovered,
    unmask_request,
    vector,
)
from tests.privacy.exchanges import make_rules, names

ALL = names(COUNT)
OTHERS = [site for site in ALL if site != SITE]
LISTS = [ALL, *([site for site in ALL if site != left_out] for left_out in OTHERS)]
KILLS = 60
# Seconds until a kill from outside: about what a step takes, with its flushes to the disk.
APART = 0.004
CALLS = 160  # about what writing the file makes, and what comes after it until the answer leaves
ROOT = Path(__file__).resolve().parents[3]


class KilledError(Exception):
    """The site's process is gone, and its answer with it."""


class RemoteSite:
    """A session in a process of its own, which may be killed at any of its steps."""

    def __init__(self, path: Path, rules: Rules, random: Random) -> None:
        self._path = path
        self._rules = rules
        self._random = random
        self.kills = 0
        self._start()

    def ask(self, method: str, *arguments: Any, deadly: bool = False, **options: Any) -> Any:
        """What a step gives back. Raises AggregationError if it was refused, KilledError if it died."""
        inside = self._random.randint(1, CALLS) if deadly and self._random.random() < 0.5 else 0
        self._pipe.send((method, arguments, options, inside))
        killed = deadly and not inside and not self._pipe.poll(self._random.uniform(0, APART))
        try:
            if killed:
                os.kill(self._process, signal.SIGKILL)
            end, answer = self._pipe.recv()  # what was written before it died has left
        except (EOFError, ConnectionResetError):
            self._bury()
            raise KilledError from None
        if killed:
            self._bury()
        if end == "refused":
            raise AggregationError(answer, rule="")
        if end == "failed":
            raise RuntimeError(f"{method}: {answer}")
        return answer

    def restart(self) -> None:
        """Kill it between two steps."""
        os.kill(self._process, signal.SIGKILL)
        self._bury()

    def stop(self) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)

    def _bury(self) -> None:
        _, status = os.waitpid(self._process, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise RuntimeError(f"the site ended without being killed: {status}")
        self.kills += 1
        self._pipe.close()
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        self._process = os.fork()
        if self._process == 0:
            self._pipe.close()
            serve(theirs, self._path, self._rules)
        theirs.close()


def serve(pipe: Connection, path: Path, rules: Rules) -> None:
    """Answer until killed."""
    session = make_session(path=path, rules=rules)
    while True:
        try:
            method, arguments, options, calls = pipe.recv()
        except EOFError:
            os._exit(0)
        if calls:
            _die_in_write(calls)
        try:
            answer = "done", getattr(session, method)(*arguments, **options)
        except AggregationError as error:
            answer = "refused", str(error)
        except Exception as error:
            answer = "failed", repr(error)
        sys.setprofile(None)
        pipe.send(answer)


def _die_in_write(calls: int) -> None:
    """Die so many beginnings and ends of calls after the file begins to be written."""
    left = 0

    def count_down(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event == "call" and frame.f_code is write_durably.__code__:
            left = calls
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count_down)


class Sums:
    """A coordinator that asks a site that dies again, and for more than it may have."""

    def __init__(self, path: Path, rules: Rules, random: Random) -> None:
        self._random = random
        self._rules = rules
        # Begun here: what all sums of a run hang on is in the file before any kill.
        self.federation: Federation = make_federation(path, rules)
        self.site = RemoteSite(path, rules, random)
        self.whole = 0

    def attempt(self, act: Callable[[bool], Any]) -> Any:
        """Do a step that may be deadly; None if it was refused, or died and was refused after that."""
        for _ in range(20):
            try:
                return act(self._random.random() < 0.5)
            except KilledError:
                continue
            except AggregationError:
                return None
        return None

    def sum(self, number: int) -> None:
        federation, random = self.federation, self._random
        roster = federation.roster(number)
        dealings = federation.deal(roster, OTHERS)
        while SITE not in dealings:
            dealt = self.attempt(lambda deadly: self.site.ask("deal", write_roster(roster), deadly=deadly))
            dealings[SITE] = read_dealing(SITE, dealt)
        cohorts = forward(roster, dealings, asked=ASKED)
        masked = {site: federation.contribute(site, cohorts[site], number)[0] for site in OTHERS}
        plain = {site: vector(site, number) for site in OTHERS}
        for salt in random.choices(range(3), k=3):
            words = vector(SITE, number, salt=salt)
            found = self.attempt(
                lambda deadly, words=words: self._mask(cohorts[SITE], number, words, deadly)
            )
            if found is not None and SITE not in masked:
                masked[SITE], plain[SITE] = found, words
            if random.random() < 0.2:
                self.site.restart()
        for survivors in random.choices(LISTS, k=6):
            self.attempt(partial(self._uncover, roster, cohorts[SITE], survivors))
        alive = sorted(masked)
        shares = {site: federation.reveal(site, roster, cohorts[site], alive) for site in OTHERS}
        total = uncovered(roster, cohorts[OTHERS[0]], masked, alive, shares)
        if not (total == add_up(plain.values(), ring=RING, size=SIZE)).all():
            raise RuntimeError(f"sum {number} is not that of its vectors")
        self.whole += SITE in masked

    def _mask(self, cohort: Cohort, number: int, words: Words, deadly: bool) -> Words:
        sent, _ = self.site.ask(
            "contribute",
            write_cohort(cohort, number=number),
            words,
            asked=cohort.asked,
            ring=RING,
            round_number=number,
            deadly=deadly,
        )
        self.federation.left.masked(SITE, cohort, sent)
        return RING.unpack(sent, size=SIZE)

    def _uncover(self, roster: Roster, cohort: Cohort, survivors: Sequence[str], deadly: bool) -> None:
        left = self.federation.left
        if self._rules.confirm:
            self.site.ask("confirm", listed(survivors, roster.number), deadly=deadly)
            left.confirmed(SITE, cohort, survivors)
        request = unmask_request(roster, cohort, survivors)
        answer, _ = self.site.ask("reveal", request, deadly=deadly)
        left.revealed(SITE, cohort, survivors, read_shares(answer, roster))


@pytest.mark.process
@pytest.mark.parametrize("confirm", [True, False])
def test_whenever_a_site_is_killed_no_update_is_uncovered(tmp_path: Path, confirm: bool) -> None:
    done = children.run(
        [
            sys.executable,
            "-m",
            "tests.client.sums.test_masked_session_kills",
            tmp_path / "secrets.json",
            *(["confirm"] if confirm else []),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    kills, sums, whole = map(int, done.stdout.split())
    assert kills >= KILLS // 2
    # The site was in many sums: kills were not so many that nothing was left to go wrong.
    assert whole > sums // 4
    assert whole >= 3


def main() -> None:
    path, rules = Path(sys.argv[1]), make_rules(COUNT, confirm="confirm" in sys.argv[2:])
    sums, number = Sums(path, rules, Random(7)), 0
    while sums.site.kills < KILLS // 2:
        number += 1
        sums.sum(number)
    sums.site.stop()
    if sums.federation.left.broken:
        raise SystemExit("\n".join(sums.federation.left.broken))
    print(sums.site.kills, number, sums.whole)


if __name__ == "__main__":
    main()
