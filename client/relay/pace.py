"""How often a relay looks for messages: often while there are some, seldom while there are none."""

from __future__ import annotations

from collections import deque

SOONEST, LATEST = 0.05, 4.0  # seconds between two looks
BUSY = (
    0.5  # at least, while the agent has a message: another one is rare then, and looks cost the SuperLink
)
_SHARE = 30  # of a silence: what comes at its end is found late by a thirtieth of it, at most
_BURDEN = 4  # a relay looks during a fifth of the time at most: many relays slow a SuperLink down
_REMEMBERED = 8  # looks


class Pace:
    """The pause before the next look, in seconds.

    It grows with the silence since the last message or answer: 0.05 s while messages follow one another,
    2 s after a minute, 4 s after two. A round waits for training that takes long, or for messages that
    take a moment, and is hardly longer for it either way.
    """

    def __init__(self, now: float) -> None:
        self._heard = now - LATEST * _SHARE
        self._looks: deque[float] = deque(maxlen=_REMEMBERED)
        self._failures = 0

    def hear(self, now: float) -> None:
        """A message came, or an answer went."""
        self._heard = now

    def looked(self, seconds: float) -> None:
        """A look was answered after so many seconds."""
        self._failures = 0
        self._looks.append(seconds)

    def failed(self) -> None:
        """A look brought something that cannot be used, or nothing."""
        self._failures += 1

    def pause(self, now: float, *, busy: bool = False) -> float:
        if self._failures:
            return float(min(SOONEST * 2.0 ** min(self._failures, 10), LATEST))
        # The shortest of the last looks: a single slow one is this machine's doing.
        burden = _BURDEN * min(self._looks, default=0.0)
        least = BUSY if busy else SOONEST
        return float(min(max((now - self._heard) / _SHARE, burden, least), LATEST))
