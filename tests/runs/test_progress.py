"""A run's progress in printed lines."""

from __future__ import annotations

from runs.progress import describe_spent
from tests.server.runs import make_record


def test_the_largest_epsilon_is_shown() -> None:
    assert describe_spent(make_record(1, epsilon={"a": 1.0, "b": 2.501}), 3.0) == "2.51 of 3"
    assert describe_spent(make_record(1, epsilon={"a": 1.0, "b": None}), 3.0) == "∞ (no privacy)"
