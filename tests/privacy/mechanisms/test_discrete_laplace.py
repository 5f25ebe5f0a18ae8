"""Integer Laplace noise has its probabilities exactly: as rationals, and as counts of draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms import discrete_laplace
from privacy.mechanisms.discrete_laplace import _attempt, _bernoulli_exp, draw_integer_laplace
from privacy.mechanisms.rng import keyed_source

SIZE = 20_000
# A test at this level fails for one key in a million.
LEVEL = 1e-6


class BranchError(Exception):
    """A run came to a choice that its script does not have: what each answer's probability is."""

    def __init__(self, odds: list[Fraction]) -> None:
        self.odds = odds


class Tree:
    """A source whose choices are taken one after the other, so that every run of an algorithm is seen."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.script: tuple[int, ...] = ()
        self.at = 0

    def choose(self, odds: list[Fraction]) -> int:
        if self.at == len(self.script):
            raise BranchError(odds)
        self.at += 1
        return self.script[self.at - 1]

    def below(self, end: int) -> int:
        return self.choose([Fraction(1, end)] * end)

    def law(self, algorithm: Callable[[Tree], Any]) -> Counter[Any]:
        """The probability of each result; what needs more than ``depth`` choices is under "deeper"."""
        found: Counter[Any] = Counter()
        waiting: list[tuple[tuple[int, ...], Fraction]] = [((), Fraction(1))]
        while waiting:
            script, mass = waiting.pop()
            self.script, self.at = script, 0
            try:
                found[algorithm(self)] += mass
            except BranchError as branch:
                if len(script) == self.depth:
                    found["deeper"] += mass
                    continue
                waiting += [((*script, n), mass * p) for n, p in enumerate(branch.odds) if p]
        return found


@pytest.mark.parametrize(
    ("gamma", "depth"), [("0", 5), ("1", 20), ("1/2", 14), ("1/7", 8), ("2/3", 8), ("6/7", 5)]
)
def test_a_coin_comes_up_as_often_as_the_exponential_says(gamma: str, depth: int) -> None:
    """Between its true runs and what was left undecided; that is γ^depth / depth! at most."""
    exact = Fraction(gamma)
    law = Tree(depth).law(lambda tree: _bernoulli_exp(exact, tree))
    assert sum(law.values()) == 1
    assert law["deeper"] == exact**depth / math.factorial(depth)
    with mpmath.workdps(50):
        expected = mpmath.exp(-mpmath.mpf(exact.numerator) / exact.denominator)
        low = mpmath.mpf(law[True].numerator) / law[True].denominator
        high = law[True] + law["deeper"]
        assert low <= expected <= mpmath.mpf(high.numerator) / high.denominator


def attempts(scale: Fraction, monkeypatch: pytest.MonkeyPatch, *, deep: int = 12) -> Counter[Any]:
    """The law of one attempt, with 1/2 for exp(−1 / numerator): any number there gives the same algebra."""

    def coin(gamma: Fraction, tree: Tree) -> bool:
        heads = Fraction(1, 2) ** int(gamma * scale.numerator)
        return tree.choose([1 - heads, heads]) == 1

    monkeypatch.setattr(discrete_laplace, "_bernoulli_exp", coin)
    return Tree(deep).law(lambda tree: _attempt(scale, tree))


@pytest.mark.parametrize("scale", ["1", "3", "1/2", "5/2", "3/4", "7/3"])
def test_each_integer_is_as_much_rarer_as_the_scale_says(
    monkeypatch: pytest.MonkeyPatch, scale: str
) -> None:
    """As rationals: k + 1 is e^(−1/scale) times as likely as k, which is (1/2)^denominator here."""
    exact = Fraction(scale)
    law = attempts(exact, monkeypatch)
    assert sum(law.values()) == 1
    # An attempt of 12 choices has up to 9 blocks; sizes under 9 · numerator / denominator are all seen.
    seen = 9 * exact.numerator // exact.denominator
    ratio = Fraction(1, 2) ** exact.denominator
    for size in range(seen - 1):
        assert law[size + 1] == law[-size - 1] == ratio * law[size] > 0


@pytest.mark.parametrize(("scale", "bound"), [("3", 3), ("3/2", 3), ("2", 5)])
def test_no_integer_is_likelier_from_a_neighbour_by_more_than_epsilon(
    monkeypatch: pytest.MonkeyPatch, scale: str, bound: int
) -> None:
    """Two counts apart by the bound or less: all odds are within e^(bound / scale), and some reach it."""
    exact = Fraction(scale)
    law = attempts(exact, monkeypatch)
    most = Fraction(2) ** (bound * exact.denominator)
    for apart in range(1, bound + 1):
        odds = [law[k] / law[k - apart] for k in range(-3, 4)]
        assert max(odds) <= most
        assert min(odds) >= 1 / most
        assert (max(odds) == most) == (apart == bound)


def passes(sample: list[int], scale: float) -> bool:
    """A chi-square test of every integer, merged in the tails so that every class expects 10 draws."""
    law = stats.dlaplace(1 / scale)
    edge = int(law.ppf(1 - 10 / SIZE))
    classes = np.arange(-edge, edge + 1)
    expected = law.pmf(classes)
    expected[[0, -1]] = law.cdf(-edge), law.sf(edge - 1)
    found = np.bincount(np.clip(sample, -edge, edge) + edge, minlength=len(classes))
    return bool(stats.chisquare(found, expected / expected.sum() * SIZE).pvalue > LEVEL)


@pytest.mark.parametrize("scale", ["1", "3/2", "2/3", "20", "123/10"])
@pytest.mark.statistics(but=2)
def test_draws_have_the_scale_and_no_other(scale: str) -> None:
    exact, source = Fraction(scale), keyed_source(0, "laplace", scale)
    sample = [draw_integer_laplace(scale=exact, source=source) for _ in range(SIZE)]
    assert passes(sample, float(exact))
    assert not passes(sample, float(exact) * 2 / 3)
    assert not passes(sample, float(exact) * 3 / 2)


def test_draws_at_the_scale_of_a_count_are_laplacian_down_to_the_last_bit() -> None:
    """The step is 2^-31 of the scale: no test of 4,000 draws tells that from the reals."""
    scale, source = Fraction(0.49**-1) * 2**30, keyed_source(0, "count")
    sample = [draw_integer_laplace(scale=scale, source=source) for _ in range(4_000)]
    for wrong in (1, 2 / 3, 3 / 2):
        found = stats.kstest(sample, stats.laplace(scale=float(scale) * wrong).cdf).pvalue > LEVEL
        assert found == (wrong == 1), wrong
    assert stats.chisquare(np.bincount(np.array(sample) & 15, minlength=16)).pvalue > LEVEL


def test_a_huge_or_a_tiny_scale_is_drawn_too() -> None:
    assert draw_integer_laplace(scale=Fraction(1, 10**9), source=keyed_source(0)) == 0
    assert abs(draw_integer_laplace(scale=Fraction(10) ** 300, source=keyed_source(0))) > 10**290


@pytest.mark.parametrize("scale", [0, -1])
def test_no_scale_is_no_noise(scale: int) -> None:
    with pytest.raises(ValueError, match="a scale above 0"):
        draw_integer_laplace(scale=Fraction(scale), source=keyed_source(0))
