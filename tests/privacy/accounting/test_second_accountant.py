"""Two accountants that share no code, against each other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.accountant import epsilon_by_pld, renyi
from privacy.accounting.second_accountant import epsilon_by_fft, renyi_by_quadrature
from privacy.errors import PlanError
from privacy.mechanisms.mechanism import Mechanism

DELTA = 1e-5
# The check is an upper bound, up to 1 % or 0.002 above the exact value; so is what it checks, whose grid
# may add as much. Two upper bounds within that of the exact value are within that of each other.
RELATIVE, ABSOLUTE = 0.01, 2e-3

PLANS = [
    ("gaussian", 1.0, 0.01, 1000),
    ("gaussian", 1.1, 0.004266666666666667, 14062),
    ("gaussian", 0.8, 0.02, 500),
    ("gaussian", 1.0, 1.0, 1),
    ("gaussian", 4.24, 1.0, 50),
    ("gaussian", 10.0, 0.001, 10_000),
    ("gaussian", 5.0, 0.3, 10_000),
    ("laplace", 10.0, 1.0, 100),
    ("laplace", 1.0, 0.01, 1000),
    ("laplace", 1.0, 1.0, 1),
    ("laplace", 0.5, 0.01, 10_000),
]


@pytest.mark.parametrize(("name", "multiplier", "rate", "steps"), PLANS)
def test_epsilons_agree(name: str, multiplier: float, rate: float, steps: int) -> None:
    plan = {
        "mechanism": Mechanism(name=name, multiplier=multiplier),
        "sampling_rate": rate,
        "steps": steps,
        "delta": DELTA,
    }
    assert epsilon_by_fft(**plan) == pytest.approx(epsilon_by_pld(**plan), rel=RELATIVE, abs=ABSOLUTE)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["gaussian", "laplace"]),
    multiplier=st.floats(0.6, 20.0),
    rate=st.floats(1e-3, 0.5),
    steps=st.integers(1, 500),
    digits=st.integers(4, 9),
)
def test_epsilons_agree_anywhere(
    name: str, multiplier: float, rate: float, steps: int, digits: int
) -> None:
    plan = {
        "mechanism": Mechanism(name=name, multiplier=multiplier),
        "sampling_rate": rate,
        "steps": steps,
        "delta": 10.0**-digits,
    }
    first, second = epsilon_by_pld(**plan), epsilon_by_fft(**plan)
    assert second <= first * (1 + RELATIVE) + ABSOLUTE
    # The first one's grid is 0.005 at most. It rounds Laplace's atoms up by one each, and an atom's mass is
    # ½ at most: over 30 steps all of them together have one below δ.
    assert first <= second * (1 + RELATIVE) + 5e-3 * (min(steps, 30) if name == "laplace" else 1)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_one_gaussian_release_is_exact(sigma: float, delta: float) -> None:
    """Balle and Wang 2018 (arXiv:1805.06530), Theorem 8: δ(ε) in closed form, here evaluated at our ε."""
    epsilon = epsilon_by_fft(
        mechanism=Mechanism(name="gaussian", multiplier=sigma), sampling_rate=1.0, steps=1, delta=delta
    )

    def tail(x: float) -> float:
        return 0.5 * math.erfc(x / math.sqrt(2))

    def spent(at: float) -> float:
        low, high = at * sigma - 0.5 / sigma, at * sigma + 0.5 / sigma
        return tail(low) - math.exp(at) * tail(high)

    assert spent(epsilon) <= delta
    assert spent(epsilon - ABSOLUTE) > delta


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("multiplier", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("rate", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("order", [2, 3, 16, 256])
def test_renyi_agrees(name: str, multiplier: float, rate: float, order: int) -> None:
    """The quadrature takes the larger direction; the closed form is of one, which must be that."""
    step = {
        "mechanism": Mechanism(name=name, multiplier=multiplier),
        "sampling_rate": rate,
        "order": order,
    }
    assert renyi_by_quadrature(**step) == pytest.approx(renyi(**step), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize(
    "change",
    [{"multiplier": 2 / 3}, {"multiplier": 3 / 2}, {"rate": 1.0}, {"rate": 0.05}, {"steps": 200}],
)
def test_a_wrong_account_is_caught(name: str, change: dict[str, float]) -> None:
    """Controls: what was accounted differs from the plan in one thing, and the check sees it."""
    plan = {"multiplier": 1.0, "rate": 0.1, "steps": 100}
    other = plan | change

    def arguments(values: dict[str, float]) -> dict[str, object]:
        return {
            "mechanism": Mechanism(name=name, multiplier=values["multiplier"]),
            "sampling_rate": values["rate"],
            "steps": values["steps"],
            "delta": DELTA,
        }

    checked = epsilon_by_fft(**arguments(plan))
    assert checked == pytest.approx(epsilon_by_pld(**arguments(plan)), rel=RELATIVE)
    assert checked != pytest.approx(epsilon_by_pld(**arguments(other)), rel=10 * RELATIVE)


def test_laplace_is_not_taken_for_gaussian() -> None:
    step = {"sampling_rate": 0.1, "order": 8}
    found = renyi_by_quadrature(mechanism=Mechanism(name="laplace", multiplier=1.0), **step)
    other = renyi(mechanism=Mechanism(name="gaussian", multiplier=1.0), **step)
    assert found != pytest.approx(other, rel=0.1)


def test_no_steps_cost_nothing() -> None:
    mechanism = Mechanism(name="gaussian", multiplier=1.0)
    assert epsilon_by_fft(mechanism=mechanism, sampling_rate=0.1, steps=0, delta=DELTA) == 0.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mechanism": Mechanism(name="none", multiplier=0.0)}, "'none'"),
        ({"sampling_rate": 0.0}, "sampling_rate=0.0"),
        ({"delta": 1e-12}, "delta=1e-12"),
        # What would take without bound: a quadrature's panels, and the losses of many steps.
        ({"mechanism": Mechanism(name="gaussian", multiplier=1e-3)}, r"more than 2\^24 points"),
        ({"mechanism": Mechanism(name="gaussian", multiplier=1e-200)}, r"more than 2\^24 points"),
        ({"mechanism": Mechanism(name="laplace", multiplier=1e-9)}, r"more than 2\^24 points"),
        (
            {"mechanism": Mechanism(name="gaussian", multiplier=100.0), "steps": 2**53},
            r"steps=9007199254740992 .* 2\^24 points",
        ),
        ({"mechanism": Mechanism(name="gaussian", multiplier=1e17), "steps": 2**53}, "so much noise"),
    ],
)
def test_impossible_plans_are_refused(change: dict[str, object], named: str) -> None:
    plan = {
        "mechanism": Mechanism(name="gaussian", multiplier=1.0),
        "sampling_rate": 0.1,
        "steps": 10,
        "delta": DELTA,
    }
    with pytest.raises(PlanError, match=named):
        epsilon_by_fft(**(plan | change))


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_the_most_noise_costs_nothing(name: str) -> None:
    mechanism = Mechanism(name=name, multiplier=1e300)
    step = {"mechanism": mechanism, "sampling_rate": 0.5}
    assert renyi_by_quadrature(**step, order=8) == pytest.approx(0.0, abs=1e-12)
    assert epsilon_by_fft(**step, steps=10, delta=DELTA) == pytest.approx(0.0, abs=ABSOLUTE)


def test_as_little_noise_as_a_job_can_ask_for_is_checked() -> None:
    """ε = 100 in one round that hides a site, as it is charged for an example: 0.053 at δ = 1e-9."""
    mechanism = Mechanism(name="gaussian", multiplier=0.0531)
    step = {"mechanism": mechanism, "sampling_rate": 1.0}
    found = renyi_by_quadrature(**step, order=256)
    assert found == pytest.approx(256 / (2 * 0.0531**2), rel=1e-7)
    assert found != pytest.approx(255 / (2 * 0.0531**2), rel=1e-3)
