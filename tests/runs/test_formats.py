"""Numbers are written for people, and an upper bound never smaller than it is."""

from __future__ import annotations

import pytest

from runs.formats import (
    format_bytes,
    format_count,
    format_delta,
    format_epsilon,
    format_measure,
    format_points,
    format_seconds,
)
from tasks.measures import ACCURACY, LOSS


@pytest.mark.parametrize(
    ("value", "said"),
    [(2.991, "3.00"), (3.0, "3.00"), (2.99, "2.99"), (0.0, "0.00"), (0.0123, "0.013")],
)
def test_epsilon_is_rounded_up(value: float, said: str) -> None:
    assert format_epsilon(value) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_300, "12.3 kB"),
        (1_234_567, "1.2 MB"),
        (3.2e9, "3.2 GB"),
        (5e12, "5000 GB"),
    ],
)
def test_bytes_come_in_decimal_units(count: float, said: str) -> None:
    assert format_bytes(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0.4 s"),
        (4.24, "4.2 s"),
        (42.4, "42 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds_become_minutes_and_hours(seconds: float, said: str) -> None:
    assert format_seconds(seconds) == said


def test_other_numbers_are_for_people() -> None:
    assert [format_delta(delta) for delta in (1e-5, 1e-10, 0.001)] == ["1e-5", "1e-10", "0.001"]
    assert [format_points(apart) for apart in (0.026, -0.25)] == ["2.6 points", "25 points"]
    assert [format_count(number, "site") for number in (1, 4)] == ["1 site", "4 sites"]


def test_a_measure_that_a_round_has_not_is_a_dash() -> None:
    measures = {"accuracy": 0.674}
    assert [format_measure(measures, measure) for measure in (ACCURACY, LOSS)] == ["67.4 %", "–"]
