"""How long a coordinator waits whose requests were refused again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

# Refusals in a row that cost no time: a site that cannot take part in a run says so once, or once a round.
FREE = 5
# Seconds to wait after the next one; they double with each further one, up to this many.
FIRST, LONGEST = 1.0, 300.0


class Patience:
    """Counts refusals in a row, whatever run they are of, and says when the next request may come.

    What a site refuses may have cost it much: a model was loaded, a plan was sought. Not for several
    threads at once. ``clock`` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.refusals = 0
        self._until = 0.0

    def refused(self) -> None:
        """Count one more."""
        self.refusals += 1
        beyond = self.refusals - FREE
        if beyond > 0:
            # No power of two that float64 does not know.
            self._until = self._clock() + min(FIRST * 2.0 ** min(beyond - 1, 60), LONGEST)

    def accepted(self) -> None:
        """Begin anew."""
        self.refusals, self._until = 0, 0.0

    def wait(self) -> float:
        """Seconds before the next request may come; 0 for now."""
        return max(0.0, self._until - self._clock())
