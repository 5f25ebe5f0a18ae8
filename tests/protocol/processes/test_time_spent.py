"""Where time goes: each moment counts once, for the innermost part that it falls in."""

from __future__ import annotations

from threading import Thread

import pytest

from protocol.processes.time_spent import Clock, Part, end_lap, profiled, running_clock, timed


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


def test_a_moment_is_of_the_innermost_part(hands: Hands) -> None:
    clock = Clock(hands)
    with clock.running():
        hands.move(1)
        with timed(Part.SUMS):
            hands.move(2)
            with timed(Part.LEDGER):
                hands.move(4)
            hands.move(8)
        hands.move(16)
    assert clock.take() == {Part.SUMS: 10, Part.LEDGER: 4, Part.OTHER: 17}
    hands.move(32)
    assert clock.take() == {Part.OTHER: 32}
    assert clock.take() == {}


@pytest.mark.parametrize("whole", [Part.CHECKS, Part.EVALUATION])
def test_what_a_check_or_an_evaluation_takes_is_its_own(hands: Hands, whole: Part) -> None:
    clock = Clock(hands)
    with clock.running(), timed(whole):
        with timed(Part.GRADIENTS), timed(Part.DATA):
            hands.move(1)
        hands.move(2)
    assert clock.take() == {whole: 3}


def test_an_error_ends_its_part(hands: Hands) -> None:
    clock = Clock(hands)

    @timed(Part.NOISE)
    def fails(depth: int) -> None:
        hands.move(1)
        if depth:
            fails(depth - 1)
        raise ZeroDivisionError

    with clock.running():
        with pytest.raises(ZeroDivisionError):
            fails(2)
        hands.move(5)
    assert clock.take() == {Part.NOISE: 3, Part.OTHER: 5}


def test_what_others_did_meanwhile_is_taken_from_the_waiting(hands: Hands) -> None:
    clock = Clock(hands)
    with clock.running(), timed(Part.WAITING):
        hands.move(10)
    clock.credit({Part.GRADIENTS: 6, Part.OTHER: 1}, of=Part.WAITING)
    assert clock.take() == {Part.GRADIENTS: 6, Part.WAITING: 3, Part.OTHER: 1}
    with clock.running(), timed(Part.WAITING):
        hands.move(10)
    # Twice as much as was waited for: they were at work while something else was done here, too.
    clock.credit({Part.GRADIENTS: 15, Part.DATA: 5}, of=Part.WAITING)
    assert clock.take() == {Part.GRADIENTS: 7.5, Part.DATA: 2.5}
    clock.credit({}, of=Part.WAITING)
    assert clock.take() == {}


def test_laps_are_kept_where_they_are_asked_for() -> None:
    for asked in (True, False):
        with profiled(asked) as laps:
            assert (running_clock() is not None) == asked
            for name in ("start", "round 1"):
                with timed(Part.DISK):
                    pass
                end_lap(name)
        assert [lap.name for lap in laps] == ["start", "round 1"] * asked
        assert all(set(lap.parts) == {Part.DISK, Part.OTHER} for lap in laps)
        assert all(lap.seconds == sum(lap.parts.values()) > 0 for lap in laps)
        assert running_clock() is None
    # Without a clock nothing is counted, and nothing fails.
    with timed(Part.DISK):
        end_lap("round 2")


def test_another_thread_does_not_count_here(hands: Hands) -> None:
    clock = Clock(hands)

    def work() -> None:
        with timed(Part.NOISE):
            hands.move(1)

    with clock.running(), timed(Part.WAITING):
        thread = Thread(target=work)
        thread.start()
        thread.join()
    assert clock.take() == {Part.WAITING: 1}
