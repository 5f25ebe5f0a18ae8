"""The search for the least noise: the same whatever it begins with, and never a multiplier too small."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.accountant import falls_steadily
from privacy.accounting.base_plan import with_least_noise
from privacy.accounting.sampled_plan import SampledPlan, make_sampled_plan
from privacy.errors import PlanError

# A multiplier's index is 1024 times its logarithm to base two.
LEAST, MOST = -8192, 13606


@dataclass
class Fake:
    """A plan by its multiplier, with the ε that a curve says, counting how often one is made."""

    index: int
    epsilon: float
    delta: float = 1e-5
    steps: int = 1


def search(curve: Callable[[int], float], *, near: float = 1.0, target: float = 1.0) -> tuple[int, int]:
    """The index that is found, and how many plans were evaluated on the way."""
    made: list[int] = []

    def noisy(multiplier: float) -> Any:
        index = round(1024 * math.log2(multiplier))
        assert math.isclose(multiplier, 2.0 ** (index / 1024), rel_tol=1e-15)
        made.append(index)
        return Fake(index, curve(index))

    found: Any = with_least_noise(noisy, epsilon=target, near=near)
    assert len(made) == len(set(made)), "a plan was evaluated twice"
    assert LEAST <= min(made) <= max(made) <= MOST
    return found.index, len(made)


CURVES: dict[str, Callable[[float], float]] = {
    "a power": lambda x: math.exp(-3.0 * x),
    "a steep power": lambda x: math.exp(min(-300.0 * x, 700.0)),
    "a curved one": lambda x: math.exp(min(-x - 5 * x * abs(x), 700.0)),
    "a step": lambda x: 3.0 if x < 0 else 0.5,
    "infinite, then nothing": lambda x: math.inf if x < 0 else 0.0,
    "infinite, then a power": lambda x: math.inf if x < -0.2 else math.exp(-x),
    "a plateau above": lambda x: 1.0 + 1e-9 if -1 < x < 0 else (2.0 if x <= -1 else 0.9),
    "a plateau at it": lambda x: 1.0 if 0 <= x < 1 else (2.0 if x < 0 else 0.9),
}


@pytest.mark.parametrize("curve", CURVES)
@settings(max_examples=40, deadline=None)
@given(root=st.integers(LEAST + 1, MOST), near=st.floats(2.0**-9, 2e4))
def test_it_is_the_least_wherever_the_search_begins(curve: str, root: int, near: float) -> None:
    """Of a curve that does not rise and first meets the target at ``root``."""
    at = CURVES[curve]
    found, evaluated = search(lambda index: at((index - root) / 1024), near=near)
    assert found == root
    # Doubled steps reach any place in 11 + 22; then each two evaluations halve what is left of 1024.
    assert evaluated <= 60


def test_a_good_guess_takes_two_evaluations() -> None:
    curve = CURVES["a power"]
    for off, most in ((0, 2), (1, 4), (-1, 2), (4, 6), (-4, 6)):
        _, evaluated = search(lambda index: curve((index - 333) / 1024), near=2.0 ** ((333 + off) / 1024))
        assert evaluated <= most


def test_the_least_noise_there_is_and_none_that_is_enough() -> None:
    assert search(lambda _: 0.5)[0] == LEAST
    assert search(lambda index: 1.0 if index >= MOST else 2.0)[0] == MOST
    with pytest.raises(PlanError, match="no noise multiplier under 10000 reaches epsilon"):
        search(lambda _: 1.5)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("near", [2.0**-8, 0.3, 1.0, 7.0, 1e4])
@pytest.mark.exhaustive(but=3)
def test_a_guess_changes_no_plan(mechanism: str, near: float) -> None:
    how: dict[str, Any] = {
        "mechanism": mechanism,
        "epsilon": 2.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "expected_batch_size": 8,
        "examples": 321,
        "steps": 6,
    }
    plan = make_sampled_plan(**how)
    assert make_sampled_plan(**how, near=near) == plan
    assert plan.epsilon <= 2.0 < _with(plan, 2.0 ** (-1 / 1024)).epsilon


def test_a_guess_changes_no_plan_where_rounding_has_epsilon_go_up_and_down() -> None:
    """Up to δ = 1.6e-9 rounding over so many steps adds most of it: ε is 5.975 at 652, and 6.031 at 656."""
    how: dict[str, Any] = {
        "mechanism": "gaussian",
        "epsilon": 6.0,
        "delta": 1.58e-9,
        "clipping_norm": 1.0,
        "expected_batch_size": 2,
        "examples": 1463,
        "steps": 930_158,
    }
    plan = make_sampled_plan(**how)
    assert plan.epsilon <= 6.0 < _with(plan, 2.0 ** (-1 / 1024)).epsilon
    for near in (2.0 ** (652 / 1024), 2.0 ** (1145 / 1024)):  # both are enough, and others are not
        assert _with(plan, near / plan.mechanism.multiplier).epsilon <= 6.0
        assert make_sampled_plan(**how, near=near) == plan


@pytest.mark.parametrize(
    ("steps", "delta", "steady"),
    [
        (1, 1e-8, True),
        (1000, 1e-5, True),
        (9000, 1e-5, True),
        (11_000, 1e-5, False),
        (930_158, 1.58e-9, False),
    ],
)
def test_where_rounding_is_far_below_delta(steps: int, delta: float, steady: bool) -> None:
    """It adds 2^-53 · log2(2^18 + 1) · √2 · √(2^17 + 1) a step at most: 1.02e-12."""
    assert falls_steadily(steps=steps, delta=delta) == steady


def _with(plan: SampledPlan, factor: float) -> SampledPlan:
    mechanism = replace(plan.mechanism, multiplier=plan.mechanism.multiplier * factor)
    return replace(plan, mechanism=mechanism)
