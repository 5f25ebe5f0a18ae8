"""How a site that is told to stop leaves a round."""

from __future__ import annotations

from collections.abc import Callable

# Called between steps with how many are done, and of how many; it may raise to stop.
Between = Callable[[int, int], None]


class StoppedError(Exception):
    """Ends a round between two steps: the site stops. No refusal: whoever asked may ask again.

    What was charged stays charged.
    """


def no_pause(_step: int, _steps: int) -> None:
    """Go on."""
