"""When a ledger believes its clock: no entry is older than the one before, and none is far ahead of all.

A clock that jumps ahead leaves entries of a time that has not come. Set right, it would be refused until
then: so a person can accept it. And a jump is refused in the first place, unless somebody else's signed
time bears it out: a ledger alone cannot tell one from a site that was idle for months.
"""

from __future__ import annotations

from privacy.errors import LedgerError

BACK_SECONDS = 120  # clocks are set back by seconds when they are corrected
AHEAD_SECONDS = 30 * 86400  # longer than a request is on its way, and than most sites are idle
_WORD = "or, if it is right, accept it: confide site accept-clock HOME"


def is_off(now: int, *, last: int, seen: float | None) -> bool:
    """Whether a clock needs a person's word: see ``check_clock``."""
    try:
        check_clock(now, last=last, seen=seen)
    except LedgerError:
        return True
    return False


def check_clock(now: int, *, last: int, seen: float | None) -> None:
    """Raises LedgerError for a clock that is behind the last entry, or far ahead of it and of ``seen``.

    All are in seconds since 1970. ``seen`` is the latest time that somebody else has signed, if anybody
    has.
    """
    if now < last - BACK_SECONDS:
        raise LedgerError(
            f"the clock went backwards: it is {now}, and the last entry is of {last} (seconds since 1970), "
            f"{in_days(last - now)} later; set the clock right, {_WORD}"
        )
    known = last if seen is None else max(last, seen)
    if now > known + AHEAD_SECONDS:
        raise LedgerError(
            f"the clock is {in_days(now - int(known))} ahead of the last entry, and of all that the "
            f"coordinator has signed: it is {now} (seconds since 1970); set the clock right, {_WORD}"
        )


def in_days(seconds: int) -> str:
    """How long that is, for people: 3650 days, 0.1 days."""
    days = seconds / 86400
    return f"{days:.0f} days" if days >= 10 else f"{days:.1f} days" if days >= 0.1 else f"{seconds} s"
