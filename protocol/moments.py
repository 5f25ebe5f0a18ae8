"""Moments in UTC as people and programs read them, whatever number a ledger claims for one."""

from __future__ import annotations

import time


def utc_minute(seconds: float) -> str:
    """A time since 1970, to the minute, for people.

    >>> utc_minute(1_700_000_000), utc_minute(1e300)
    ('2023-11-14 22:13', 'at 1e+300 s')
    """
    return _written(seconds, "%Y-%m-%d %H:%M")


def utc_second(seconds: float) -> str:
    """A time since 1970 as ISO 8601 has it, for machines.

    >>> utc_second(1_700_000_000)
    '2023-11-14T22:13:20Z'
    """
    return _written(seconds, "%Y-%m-%dT%H:%M:%SZ")


def _written(seconds: float, form: str) -> str:
    try:
        return time.strftime(form, time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"at {seconds} s"
