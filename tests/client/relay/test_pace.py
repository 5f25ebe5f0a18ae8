"""How often a relay looks: at once while messages follow one another, seldom when none come."""

from __future__ import annotations

import pytest

from client.relay.pace import BUSY, LATEST, SOONEST, Pace


@pytest.mark.parametrize(
    ("silence", "pause"),
    [(0.0, SOONEST), (1.5, SOONEST), (3.0, 0.1), (60.0, 2.0), (120.0, LATEST), (1e9, LATEST)],
)
def test_it_is_late_by_a_thirtieth_of_the_silence(silence: float, pause: float) -> None:
    pace = Pace(0.0)
    pace.hear(1000.0)
    assert pace.pause(1000.0 + silence) == pytest.approx(pause)


def test_it_looks_less_often_while_the_agent_has_a_message() -> None:
    pace = Pace(0.0)
    pace.hear(0.0)
    assert pace.pause(0.0, busy=True) == BUSY
    assert pace.pause(60.0, busy=True) == pace.pause(60.0) == pytest.approx(2.0)


def test_a_relay_without_a_run_asks_fewer_than_twenty_times_a_minute() -> None:
    """Heartbeats, two or three a minute, come on top."""
    assert Pace(5.0).pause(5.0) == LATEST
    assert 60 / LATEST + 3 < 20


def test_a_slow_superlink_is_asked_less_often() -> None:
    pace = Pace(0.0)
    pace.hear(0.0)
    for seconds in (0.5, 0.2, 0.3):
        pace.looked(seconds)
    assert pace.pause(0.0) == pytest.approx(0.8)
    pace.looked(0.01)  # the slow ones were this machine's
    assert pace.pause(0.0) == SOONEST


def test_what_cannot_be_used_is_asked_for_later_and_later() -> None:
    pace = Pace(0.0)
    pace.hear(0.0)
    pauses = []
    for _ in range(8):
        pace.failed()
        pauses.append(pace.pause(0.0))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LATEST, LATEST]
    pace.looked(0.001)
    assert pace.pause(0.0) == SOONEST
