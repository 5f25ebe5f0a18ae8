"""How likely examples are to have been trained on, from their losses under one adapter and under others.

The others are *shadow* adapters: of each it is known which of the examples it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.errors import AuditError

# Below this a loss is 0 in float32: its logit would be infinite.
_LEAST_LOSS = 1e-7
# How many shadows the variance over all examples counts for, beside those of one example.
_PRIOR_SHADOWS = 4.0


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of n examples in nats: under the attacked adapter and under k shadows.

    ``target`` is float64[n], ``shadows`` float64[k, n], and ``present``, bool[k, n], says which shadow was
    trained on which example: two that were and two that were not, at least, for each. Raises AuditError
    for arrays that do not fit or losses that are not finite.
    """

    target: NDArray[np.float64]
    shadows: NDArray[np.float64]
    present: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.target)
        if self.shadows.shape != self.present.shape or self.shadows.shape[1:] != (count,):
            raise AuditError(
                f"expected a row of {count} losses a shadow, got {self.shadows.shape} and "
                f"{self.present.shape}"
            )
        if not (np.isfinite(self.target).all() and np.isfinite(self.shadows).all()):
            raise AuditError("expected finite losses: an adapter is not, or the model fails on an example")
        ins = self.present.sum(0)
        if count and min(ins.min(), len(self.present) - ins.max()) < 2:
            raise AuditError("expected each example in two shadows at least, and out of two")


def balanced_coins(shadows: int, examples: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Who is in which shadow, bool[shadows, examples]: each example in just half of them.

    Every other shadow has those that the one before it has not. Raises AuditError for an odd number, or
    fewer than four.
    """
    if shadows < 4 or shadows % 2:
        raise AuditError(f"expected an even number of shadows, 4 at least, got shadows={shadows}")
    half = generator.random((shadows // 2, examples)) < 0.5
    coins: NDArray[np.bool_] = np.stack([half, ~half], axis=1).reshape(shadows, examples)
    return coins


def loss_scores(losses: Losses) -> NDArray[np.float64]:
    """The lower the loss, the likelier in: float64[n].

    Source: Yeom et al. 2018 (arXiv:1709.01604), section 3.2.
    """
    return -losses.target


def reference_scores(losses: Losses) -> NDArray[np.float64]:
    """How much lower the loss is than under shadows that were not trained on the example: float64[n].

    Source: Watson et al. 2022 (arXiv:2111.08440), difficulty calibration.
    """
    return _means(losses.shadows, ~losses.present) - losses.target


def lira_scores(losses: Losses) -> NDArray[np.float64]:
    """The logarithm of how likely an example's loss is if it is in, over that if it is out: float64[n].

    A loss counts by the logit of its probability, which is nearly Gaussian over shadows. With so few of
    them an example's own means and variance are drawn towards those of all examples: the difference of its
    means by as much as chance explains how these vary, its variance as if four shadows more had told the
    others'.

    Source: Carlini et al. 2022 (arXiv:2112.03570), algorithm 1 (online); the drawing together is James and
    Stein's, in place of the one variance for all in section VI.
    """
    shadows, ins = logits(losses.shadows), losses.present
    mean_in, mean_out = _means(shadows, ins), _means(shadows, ~ins)
    rest = np.where(ins, shadows - mean_in, shadows - mean_out)
    freedom = len(ins) - 2
    own = np.square(rest).sum(0) / freedom
    variance = (freedom * own + _PRIOR_SHADOWS * own.mean()) / (freedom + _PRIOR_SHADOWS)
    if not variance.all():  # shadows that agree to the last bit say nothing of how far losses vary
        variance = np.maximum(variance, np.finfo(np.float64).tiny)
    # In units of an example's own deviation, as what is learned of it is.
    found = (mean_in - mean_out) / np.sqrt(variance)
    chance = (1.0 / ins.sum(0) + 1.0 / (~ins).sum(0)).mean()
    spread = float(found.var())
    kept = max(0.0, 1.0 - chance / spread) if spread else 0.0
    apart = found.mean() + kept * (found - found.mean())
    middle = (mean_in + mean_out) / 2.0
    return np.asarray(apart * (logits(losses.target) - middle) / np.sqrt(variance), np.float64)


def logits(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(p / (1 − p)) of the probability p = e^−loss, of the same shape."""
    least = np.maximum(losses, _LEAST_LOSS)
    return np.asarray(-least - np.log(-np.expm1(-least)), np.float64)


def exposure(losses: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """By how many bits canaries that are in are exposed: by their rank among those that are out.

    ``losses`` are float64[n] under one adapter. A canary of rank r among N others has log2((N + 1) / r);
    one that was not learned has 1.44 bits in the mean. Raises AuditError unless there are some of either.

    Source: Carlini et al. 2019 (arXiv:1802.08232), definition 4, with canaries that were left out for the
    space that these were drawn from.
    """
    outs = np.sort(losses[~present])
    if not len(outs) or not present.any():
        raise AuditError("expected canaries that are in and such that are out")
    ranks = 1 + np.searchsorted(outs, losses[present], side="left")
    return float(np.log2((len(outs) + 1) / ranks).mean())


def _means(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(np.where(chosen, values, 0.0).sum(0) / chosen.sum(0), np.float64)
