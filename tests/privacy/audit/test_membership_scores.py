"""Scores of membership from losses, and the most that a trade-off curve allows them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from privacy.audit.curve_limits import most_auc, most_true
from privacy.audit.f_dp import curve_through, gaussian_curve
from privacy.audit.membership_scores import (
    Losses,
    balanced_coins,
    exposure,
    lira_scores,
    logits,
    loss_scores,
    reference_scores,
)
from privacy.audit.roc import auc
from privacy.errors import AuditError

COUNT = 4000


def drawn(*, shift: float, shadows: int = 16, seed: int = 0) -> tuple[Losses, np.ndarray]:
    """Losses whose logits are Gaussian: a level of the example's own, and ``shift`` more where it is in."""
    generator = np.random.default_rng(seed)
    level = 3.0 * generator.standard_normal(COUNT)
    wide = np.exp(0.5 * generator.standard_normal(COUNT))
    present = generator.random(COUNT) < 0.5
    coins = balanced_coins(shadows, COUNT, generator)

    def losses(ins: np.ndarray) -> np.ndarray:
        found = level + wide * (shift * ins + generator.standard_normal(ins.shape))
        return np.logaddexp(0.0, -found)  # -ln p of a probability with this logit

    return Losses(target=losses(present), shadows=losses(coins), present=coins), present


def value(scores: np.ndarray, present: np.ndarray) -> float:
    return auc(scores, present, error=0.05).value


def test_a_logit_is_that_of_the_probability() -> None:
    np.testing.assert_allclose(logits(np.array([math.log(2.0), math.log(4.0)])), [0.0, math.log(1 / 3)])
    assert np.isfinite(logits(np.array([0.0, 1e-12, 50.0]))).all()


def test_each_example_is_in_half_of_the_shadows() -> None:
    coins = balanced_coins(6, 100, np.random.default_rng(1))
    assert (coins.sum(0) == 3).all()
    assert 0.3 < coins[0].mean() < 0.7
    for count in (2, 5):
        with pytest.raises(AuditError, match="even number of shadows"):
            balanced_coins(count, 100, np.random.default_rng(1))


def test_lira_is_nearly_as_good_as_knowing_what_an_example_loses() -> None:
    """Who knew each mean and deviation would reach Φ(shift/√2); of 16 shadows a little is lost."""
    losses, present = drawn(shift=1.0)
    best = float(norm.cdf(1.0 / math.sqrt(2.0)))  # 0.760
    lira, reference, loss = (
        value(score(losses), present) for score in (lira_scores, reference_scores, loss_scores)
    )
    # Its own error at 4,000 examples is 0.008.
    assert best - 0.03 < lira < best + 0.02
    assert loss + 0.05 < reference < lira


def test_a_small_shift_is_not_lost_among_noisy_means() -> None:
    """Of shadows by themselves a shift of 0.3 has an error of 0.5: what all examples tell is used."""
    losses, present = drawn(shift=0.3)
    best = float(norm.cdf(0.3 / math.sqrt(2.0)))  # 0.584
    assert value(lira_scores(losses), present) > best - 0.02


def test_without_a_shift_nothing_is_told() -> None:
    losses, present = drawn(shift=0.0)
    for score in (lira_scores, reference_scores, loss_scores):
        assert abs(value(score(losses), present) - 0.5) < 0.04  # five standard errors


def test_shadows_that_agree_to_the_last_bit_are_no_division_by_zero() -> None:
    coins = balanced_coins(4, 8, np.random.default_rng(0))
    losses = Losses(target=np.full(8, 0.3), shadows=np.full((4, 8), 0.3), present=coins)
    assert np.isfinite(lira_scores(losses)).all()


def test_losses_that_do_not_fit_are_refused() -> None:
    coins = balanced_coins(4, 8, np.random.default_rng(0))
    with pytest.raises(AuditError, match="a row of 7 losses"):
        Losses(target=np.zeros(7), shadows=np.zeros((4, 8)), present=coins)
    with pytest.raises(AuditError, match="expected finite losses"):
        Losses(target=np.full(8, np.nan), shadows=np.zeros((4, 8)), present=coins)
    with pytest.raises(AuditError, match="two shadows at least"):
        Losses(target=np.zeros(8), shadows=np.zeros((4, 8)), present=np.ones((4, 8), bool))


def test_exposure_is_by_rank_among_those_that_are_out() -> None:
    present = np.array([True, True, False, False, False])
    # Under three others the first is the lowest, of rank 1 of 4; the second is of rank 3.
    found = exposure(np.array([0.1, 0.35, 0.2, 0.3, 0.4]), present)
    assert found == pytest.approx((math.log2(4 / 1) + math.log2(4 / 3)) / 2)
    generator = np.random.default_rng(0)
    none = exposure(generator.random(20_000), generator.random(20_000) < 0.5)
    assert none == pytest.approx(1 / math.log(2.0), abs=0.06)  # 1.44, of 10,000 draws of deviation 1.44
    with pytest.raises(AuditError, match="that are out"):
        exposure(np.zeros(3), np.ones(3, bool))


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.0, 3.0])
def test_limits_of_two_gaussians_are_known(separation: float) -> None:
    curve = gaussian_curve(separation)
    exact = float(norm.cdf(separation / math.sqrt(2.0)))
    assert exact - 1e-6 <= most_auc(curve) < exact + 1e-3
    for false in (0.001, 0.01, 0.3):
        expected = float(norm.cdf(norm.ppf(false) + separation))
        assert most_true(curve, false=false) == pytest.approx(expected, abs=1e-6)


def test_limits_of_one_promise_are_its_two_lines() -> None:
    curve = curve_through([(math.log(3.0), 0.0)])
    assert most_true(curve, false=0.01) == pytest.approx(0.03)
    assert most_true(curve, false=0.5) == pytest.approx(1 - 0.5 / 3)
    # Two lines of slopes 3 and ⅓ that meet at (¼, ¾): under them lie 0.75.
    assert most_auc(curve) == pytest.approx(0.75, abs=1e-3)
