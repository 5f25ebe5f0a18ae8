"""How a process ended, in words."""

from __future__ import annotations

import signal


def how_it_ended(code: int) -> str:
    """What follows "it ended": by a signal, which is a negative exit code, or with a code.

    >>> how_it_ended(-9), how_it_ended(1)
    ('by signal 9 (Killed)', 'with exit code 1')
    """
    return f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"
