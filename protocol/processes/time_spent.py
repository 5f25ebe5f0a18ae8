"""Where the time of a run goes: wall-clock seconds by part, measured where each part happens.

::

    @timed(Part.NOISE)
    def add_noise(self): …

    with profiled(True) as laps:
        …
        end_lap("round 1")

What a function or a block of ``timed`` takes counts for its part if a clock runs on this thread, and costs
next to nothing if none does. A moment is of the innermost block that it falls in, and of ``Part.OTHER``
where there is none: so the parts of a lap add up to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """What time is spent on, in the order that it is shown."""

    MODEL = "base model"
    DATA = "data"
    CHECKS = "checks"
    PLANS = "noise plans"
    ACTIVATIONS = "activations"
    GRADIENTS = "forward and backward"
    CLIPPING = "clipping"
    NOISE = "noise"
    SUMS = "masks and sums"
    LEDGER = "ledger"
    EVALUATION = "evaluation"
    DISK = "disk"
    REPORT = "report"
    WAITING = "waiting"
    OTHER = "other"


# Whatever happens in these is theirs: a check's gradients train nobody.
_WHOLE = {Part.CHECKS, Part.EVALUATION}


@dataclass(frozen=True, kw_only=True)
class Lap:
    """A stretch of a run, such as a round: its seconds by part. Parts that took none are left out."""

    name: str
    parts: Mapping[Part, float]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return sum(self.parts.values())


class Clock:
    """Seconds by part since they were last taken. ``now`` is a clock that never goes back."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._open = [Part.OTHER]
        self._spent = dict.fromkeys(Part, 0.0)
        self._since = now()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this block, on this thread, ``timed`` counts here."""
        token = _clock.set(self)
        try:
            yield
        finally:
            _clock.reset(token)

    def enter(self, part: Part) -> None:
        """Count for a part until ``leave``."""
        self._count()
        self._open.append(self._open[-1] if self._open[-1] in _WHOLE else part)

    def leave(self) -> None:
        """Count for what was counted for before."""
        self._count()
        self._open.pop()

    def take(self) -> dict[Part, float]:
        """What was spent since it was last taken."""
        self._count()
        spent, self._spent = self._spent, dict.fromkeys(Part, 0.0)
        return {part: seconds for part, seconds in spent.items() if seconds}

    def credit(self, parts: Mapping[Part, float], *, of: Part) -> None:
        """Of what counted for one part, let so much count for others: what was done meanwhile.

        If that is more than there is, as of work that went on beside other parts, it is cut in proportion.
        """
        self._count()
        done = sum(parts.values())
        share = min(1.0, self._spent[of] / done) if done else 0.0
        self._spent[of] -= share * done
        for part, seconds in parts.items():
            self._spent[part] += share * seconds

    def _count(self) -> None:
        now = self._now()
        self._spent[self._open[-1]] += now - self._since
        self._since = now


class _Laps(Clock):
    """A clock that keeps laps."""

    def __init__(self) -> None:
        super().__init__()
        self.laps: list[Lap] = []


_clock: ContextVar[Clock | None] = ContextVar("clock", default=None)


class _Timed(ContextDecorator):
    """Has no state of its own: a function that it decorates may call itself."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def __enter__(self) -> None:
        clock = _clock.get()
        if clock is not None:
            clock.enter(self._part)

    def __exit__(self, *_raised: object) -> None:
        clock = _clock.get()
        if clock is not None:
            clock.leave()


def timed(part: Part) -> _Timed:
    """A block, or a function that it decorates, which counts for a part where a clock runs."""
    return _Timed(part)


def running_clock() -> Clock | None:
    """The clock that runs on this thread, if one does."""
    return _clock.get()


@contextmanager
def profiled(asked: bool) -> Iterator[list[Lap]]:
    """Within this block, if ``asked``, the laps that end are put into the list."""
    if not asked:
        yield []
        return
    clock = _Laps()
    with clock.running():
        yield clock.laps


def end_lap(name: str) -> None:
    """What was spent since the last lap ended was spent on this one, where laps are kept."""
    clock = _clock.get()
    if isinstance(clock, _Laps):
        clock.laps.append(Lap(name=name, parts=clock.take()))
