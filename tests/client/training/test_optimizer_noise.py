"""The noise of a step: its size, its kind, and that it is added once."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source, keyed_source
from tests.client.optimizers import (
    make_optimizer,
    random_gradients,
    released,
    step,
)

WIDE_NOISE = ((100, 100), (10_000,))
DRAWS = 20_000
# The Kolmogorov-Smirnov distance of n draws from their own distribution exceeds
# sqrt(ln(2 / p) / 2n) with probability p at most (Dvoretzky-Kiefer-Wolfowitz): 0.019 for p = 1e-6.
# Scales 2/3 and 3/2 lie 0.097 (Gaussian) and 0.074 (Laplace) away.
DISTANCE = sqrt(np.log(2 / 1e-6) / (2 * DRAWS))


def noise_of_a_step(mechanism: str, multiplier: float, *, clipping_norm: float) -> NDArray:
    optimizer = make_optimizer(
        shapes=WIDE_NOISE, mechanism=mechanism, multiplier=multiplier, clipping_norm=clipping_norm
    )
    step(optimizer, random_gradients(0, shapes=WIDE_NOISE))
    return released(optimizer)


def is_noise(draws: NDArray, mechanism: str, *, scale: float) -> bool:
    """Whether the draws pass for the mechanism's noise of this standard deviation or scale."""
    law = {"gaussian": stats.norm, "laplace": stats.laplace}[mechanism](scale=scale)
    return stats.kstest(draws, law.cdf).statistic < DISTANCE


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize(("multiplier", "clipping_norm"), [(1.0, 1.0), (0.7, 3.0), (5.0, 0.1)])
def test_noise_has_the_planned_size(mechanism: str, multiplier: float, clipping_norm: float) -> None:
    planned = multiplier * clipping_norm

    def drawn(factor: float) -> NDArray:
        return noise_of_a_step(mechanism, multiplier * factor, clipping_norm=clipping_norm)

    assert is_noise(drawn(1.0), mechanism, scale=planned)
    assert not is_noise(drawn(2 / 3), mechanism, scale=planned)
    assert not is_noise(drawn(3 / 2), mechanism, scale=planned)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_noise_follows_the_bound_that_was_clipped_to(mechanism: str, factor: float) -> None:
    optimizer = make_optimizer(shapes=WIDE_NOISE, mechanism=mechanism, clipping_norm=1.0)
    optimizer.max_grad_norm *= factor

    step(optimizer, random_gradients(0, shapes=WIDE_NOISE))

    assert is_noise(released(optimizer), mechanism, scale=factor)
    assert not is_noise(released(optimizer), mechanism, scale=1.0)


def test_a_bound_that_changes_within_a_step_is_refused() -> None:
    optimizer = make_optimizer()

    def again() -> None:
        for parameter, batch in zip(optimizer.params, random_gradients(2), strict=True):
            parameter.grad_sample = batch
        optimizer.clip_and_accumulate()

    again()
    optimizer.max_grad_norm *= 2
    with pytest.raises(PrivacyUnitError, match="clipped alike"):
        again()


def test_a_sum_clipped_to_the_wrong_norm_gets_no_noise() -> None:
    optimizer = make_optimizer(mechanism="gaussian")
    for parameter, batch in zip(optimizer.params, random_gradients(2), strict=True):
        parameter.grad_sample = batch
    optimizer.clip_and_accumulate()
    optimizer._mechanism = Mechanism(name="laplace", multiplier=1.0)

    with pytest.raises(PrivacyUnitError, match="laplace noise hides"):
        optimizer.add_noise()


def test_gaussian_noise_does_not_pass_for_laplace_noise() -> None:
    gaussian = noise_of_a_step("gaussian", 1.0, clipping_norm=1.0)

    # Compared at the same standard deviation, which is sqrt(2) times the scale.
    assert not is_noise(gaussian, "laplace", scale=1 / sqrt(2))


def test_tensors_get_independent_noise() -> None:
    noise = noise_of_a_step("gaussian", 1.0, clipping_norm=1.0)

    # A correlation of n independent pairs has a standard deviation of 1 / sqrt(n): five of them.
    assert abs(np.corrcoef(noise[:10_000], noise[10_000:])[0, 1]) < 5 / sqrt(10_000)


class CountingSource(ChaCha20Source):
    """Counts the numbers that were asked for."""

    def __init__(self) -> None:
        super().__init__(bytes(32))
        self.asked = 0

    def discrete_gaussian(self, size: int, *, std: float) -> NDArray[np.int64]:
        self.asked += size
        return super().discrete_gaussian(size, std=std)


@pytest.mark.parametrize("physical_batches", [1, 2, 6])
def test_noise_is_added_once_a_step(physical_batches: int) -> None:
    source = CountingSource()
    optimizer = make_optimizer(source=source)

    step(optimizer, *([random_gradients(2)] * physical_batches))

    assert source.asked == 12 + 5


def test_noise_does_not_come_from_torch() -> None:
    before = torch.random.get_rng_state()
    noises = []
    for key in (1, 1, 2):
        torch.manual_seed(0)
        optimizer = make_optimizer(source=keyed_source(key))
        step(optimizer, random_gradients(0))
        noises.append(released(optimizer))
        assert torch.equal(torch.random.get_rng_state(), torch.manual_seed(0).get_state())
    torch.random.set_rng_state(before)

    np.testing.assert_array_equal(noises[0], noises[1])
    assert not np.allclose(noises[0], noises[2])
