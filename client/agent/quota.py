"""How many bytes of envelopes the agent holds, all of them together."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from privacy.errors import ConfideError

MOST_BYTES = 1 << 30


class TooMuchError(ConfideError):
    """More bytes than the agent takes; ``alone`` if one envelope is too long by itself."""

    def __init__(self, message: str, *, alone: bool) -> None:
        super().__init__(message)
        self.alone = alone


class Intake:
    """A store of at most ``most`` bytes, counted as they arrive."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        return self._held

    def share(self) -> Share:
        return Share(self)

    def add(self, count: int) -> bool:
        """Count bytes in, if there is room."""
        with self._lock:
            if self._held + count > self.most:
                return False
            self._held += count
            return True

    def remove(self, count: int) -> None:
        with self._lock:
            self._held -= count


class Share:
    """What one envelope holds of an intake, until it is settled or answered."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._count = 0
        self._held = False

    def take(self, count: int) -> None:
        """Raises TooMuchError if there is no room for so many more bytes."""
        if self._count + count > self._intake.most:
            raise TooMuchError(
                f"expected an envelope of {self._intake.most} bytes at most, got more", alone=True
            )
        if not self._intake.add(count):
            raise TooMuchError("other envelopes fill the agent: send this one again later", alone=False)
        self._count += count

    def hold_until(self, future: Future[bytes]) -> None:
        """Settle when the envelope is answered: until then a queue holds it."""
        self._held = True
        future.add_done_callback(lambda _future: self._give_back())

    def settle(self) -> None:
        """Give the bytes back, if nothing else holds them."""
        if not self._held:
            self._give_back()

    def _give_back(self) -> None:
        count, self._count = self._count, 0
        self._intake.remove(count)
