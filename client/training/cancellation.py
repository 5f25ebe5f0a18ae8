"""How a site leaves a round before its last step: told to stop, or out of time."""

from __future__ import annotations

from collections.abc import Callable

from privacy.errors import PolicyError

# Called between steps with how many are done, and of how many; it may raise to stop.
Between = Callable[[int, int], None]


class StoppedError(Exception):
    """Ends a round between two steps: the site stops. No refusal: whoever asked may ask again.

    What was charged stays charged.
    """


def no_pause(_step: int, _steps: int) -> None:
    """Go on."""


def within(seconds: float, between: Between, *, clock: Callable[[], float]) -> Between:
    """Between steps, and no longer than so many ``seconds`` from now: raises PolicyError after that.

    A step that goes on is not ended. What was charged stays charged.
    """
    over = clock() + seconds

    def check(step: int, steps: int) -> None:
        between(step, steps)
        if clock() >= over:
            # How many steps were taken tells how long their batches were: it is not said.
            raise PolicyError(
                "the round's local steps take longer than this site allows: ask for fewer of them or for a "
                "smaller batch",
                rule="rules.longest_round",
            )

    return check
