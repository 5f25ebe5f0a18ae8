"""What right guesses at one run's canaries prove of a mechanism that is known but for its noise.

Its trade-off curve says more than one (ε, δ): the same guesses refute more.

Source: Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-differential privacy in one run"
(arXiv:2410.22235).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]

from privacy.audit.gaussian_pair import gaussian_epsilon
from privacy.audit.guesses import Guesses
from privacy.audit.one_run import largest_refuted

# From how likely a guess is made and right, how likely it is made and wrong, at the least: the inverse of
# x ↦ 1 − f(x), for a trade-off function f.
Curve = Callable[[float], float]

_SEPARATION_MAX = 16.0


def gaussian_curve(separation: float) -> Curve:
    """The curve of two Gaussians whose means are ``separation`` deviations apart.

    Source: Dong, Roth and Su 2022 (arXiv:1905.02383), definition 2.6.
    """
    return lambda right: float(ndtr(ndtri(right) - separation))


def curve_through(promises: Sequence[tuple[float, float]]) -> Curve:
    """The curve of a mechanism that is (ε, δ)-private for each of these pairs.

    Source: Dong, Roth and Su 2022 (arXiv:1905.02383), proposition 2.5: f is the largest of what each
    promises.
    """
    epsilons = np.array([epsilon for epsilon, _ in promises])
    deltas = np.array([delta for _, delta in promises])
    shrink, grow = np.exp(-epsilons), np.exp(np.minimum(epsilons, 700.0))

    def wrong(right: float) -> float:
        few = (right - deltas) * shrink
        many = 1.0 - deltas - grow * (1.0 - right)
        return max(0.0, float(few.max()), float(many.max()))

    return wrong


def refutes(guesses: Guesses, curve: Curve, *, error: float) -> bool:
    """Whether so many right guesses have a probability of ``error`` at most under this curve.

    Suppose that they are likelier. Then how often guesses are made and right, and made and wrong, add up,
    from so many right downwards, to more than all guesses: a contradiction.

    Source: algorithm 3 there, with two choices a canary.
    """
    canaries, made, right = guesses.canaries, guesses.made, guesses.right
    share_right, share_wrong = error * right / canaries, error * (made - right) / canaries
    for count in range(right - 1, -1, -1):
        wrong = max(share_wrong, curve(share_right))
        share_right += count / (made - count) * (wrong - share_wrong)
        share_wrong = wrong
        if share_right + share_wrong > made / canaries:
            return True
    return False


def f_dp_bound(guesses: Guesses, *, delta: float, error: float) -> float:
    """The ε at ``delta`` that these guesses refute, at this error, of a Gaussian mechanism of any noise."""
    found = largest_refuted(
        lambda separation: refutes(guesses, gaussian_curve(separation), error=error), most=_SEPARATION_MAX
    )
    return gaussian_epsilon(found, delta=delta)


def noise_refuted(
    guesses: Guesses, curve_of: Callable[[float], Curve], *, among: Sequence[float], error: float
) -> float:
    """The least noise ``among`` these, in rising order, that the guesses refute; infinite if none.

    ``curve_of`` gives the curve of a mechanism by its noise, less of which is never more private. The
    largest is tried first: whether it is refuted is all that most runs show.
    """
    low, high = 0, len(among)
    while low < high:
        middle = high - 1 if high == len(among) else (low + high) // 2
        if refutes(guesses, curve_of(among[middle]), error=error):
            high = middle
        else:
            low = middle + 1
    return among[high] if high < len(among) else math.inf
