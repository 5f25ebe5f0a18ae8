"""Clipping bounds what one example can do, and noise of the planned size is added once a step."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import nn

from client.optimizer import PrivateOptimizer
from privacy.errors import PrivacyUnitError
from privacy.mechanisms import Mechanism
from privacy.noise import ChaCha20Source, keyed_source
from privacy.plan import Plan

EXPECTED_BATCH = 8
# Against float32's rounding in a norm of a few thousand terms, sqrt(n) · 2^-24 < 1e-5.
ROUNDING = 1e-5

Shapes = Sequence[tuple[int, ...]]
SHAPES = ((4, 3), (5,))


def make_optimizer(
    *,
    shapes: Shapes = SHAPES,
    mechanism: str = "gaussian",
    multiplier: float = 1.0,
    clipping_norm: float = 1.0,
    source: Any = None,
) -> PrivateOptimizer:
    """Plain SGD at rate 1, so that a step subtracts exactly what was released."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    plan = Plan(
        mechanism=Mechanism(name=mechanism, multiplier=multiplier),
        clipping_norm=clipping_norm,
        sampling_rate=0.1,
        steps=1,
        delta=1e-5,
    )
    optimizer = PrivateOptimizer(
        torch.optim.SGD(parameters, lr=1.0), plan=plan, expected_batch_size=EXPECTED_BATCH
    )
    optimizer.source = source or keyed_source(0, "optimizer")
    return optimizer


def without_noise(**kwargs: Any) -> PrivateOptimizer:
    """Clips, and adds noise too small to see: what is left is the sum."""
    return make_optimizer(multiplier=1e-30, **kwargs)


def random_gradients(
    count: int, *, shapes: Shapes = SHAPES, size: float = 10.0, seed: int = 0
) -> list[torch.Tensor]:
    """Gradients [count, *shape] a tensor, most of them far over the bound."""
    generator = torch.Generator().manual_seed(seed)
    return [size * torch.randn((count, *shape), generator=generator) for shape in shapes]


def step(optimizer: PrivateOptimizer, *batches: list[torch.Tensor]) -> None:
    """One step from per-example gradients in one or several physical batches."""
    for number, batch in enumerate(batches, start=1):
        for parameter, gradients in zip(optimizer.params, batch, strict=True):
            parameter.grad_sample = gradients.clone()
        optimizer.signal_skip_step(do_skip=number < len(batches))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def released(optimizer: PrivateOptimizer) -> NDArray[np.float64]:
    """The noisy sum that the first step released, over all tensors."""
    moved = torch.cat([-p.detach().flatten() for p in optimizer.params])
    return EXPECTED_BATCH * moved.double().numpy()


def rows(gradients: list[torch.Tensor], *indices: int) -> list[torch.Tensor]:
    return [gradient[list(indices)] for gradient in gradients]


def flat(gradients: list[torch.Tensor]) -> NDArray[np.float64]:
    return torch.cat([g.flatten(1) for g in gradients], dim=1).double().numpy()


def clipped(gradients: list[torch.Tensor], *, norm: int, bound: float) -> NDArray[np.float64]:
    """The reference: each row scaled down to the bound, in float64."""
    whole = flat(gradients)
    norms = np.linalg.norm(whole, norm, axis=1, keepdims=True)
    return whole * np.minimum(1.0, bound / norms)


# Clipping.


@pytest.mark.parametrize(("mechanism", "norm"), [("gaussian", 2), ("laplace", 1)])
@pytest.mark.parametrize("bound", [0.01, 1.0, 100.0])
def test_one_example_weighs_the_bound_at_most(mechanism: str, norm: int, bound: float) -> None:
    gradients = random_gradients(20)
    for index in range(20):
        optimizer = without_noise(mechanism=mechanism, clipping_norm=bound)
        step(optimizer, rows(gradients, index))
        assert np.linalg.norm(released(optimizer), norm) <= bound * (1 + ROUNDING)


@pytest.mark.parametrize(("mechanism", "norm"), [("gaussian", 2), ("laplace", 1)])
def test_the_sum_is_that_of_clipped_examples(mechanism: str, norm: int) -> None:
    gradients = random_gradients(12, size=0.3)
    optimizer = without_noise(mechanism=mechanism)

    step(optimizer, gradients)

    expected = clipped(gradients, norm=norm, bound=1.0).sum(0)
    np.testing.assert_allclose(released(optimizer), expected, atol=12 * ROUNDING)


def test_an_l2_clipper_would_break_the_laplace_bound() -> None:
    optimizer = without_noise(mechanism="gaussian")

    step(optimizer, random_gradients(1))

    # 17 numbers of like size under an L2 norm of 1 have an L1 norm of about 0.8 · sqrt(17) = 3.3.
    assert np.linalg.norm(released(optimizer), 1) > 2


def test_examples_under_the_bound_are_left_as_they_are() -> None:
    gradients = random_gradients(3, size=0.01)
    optimizer = without_noise()

    step(optimizer, gradients)

    # float32 sums of numbers near 0.01 in weights near 0.001.
    np.testing.assert_allclose(released(optimizer), flat(gradients).sum(0), atol=1e-7)


def test_without_a_mechanism_the_sum_is_clipped_and_nothing_is_added() -> None:
    gradients = random_gradients(3, size=1e4)
    plain, noiseless = make_optimizer(mechanism="none", multiplier=0.0), without_noise()

    for optimizer in (plain, noiseless):
        step(optimizer, gradients)

    assert np.array_equal(released(plain), released(noiseless))
    assert 0 < np.linalg.norm(released(plain)) <= 3 * (1 + ROUNDING)


WIDE = ((64, 32), (500,))


@pytest.mark.parametrize(("mechanism", "norm"), [("gaussian", 2), ("laplace", 1)])
def test_bfloat16_gradients_stay_under_the_bound(mechanism: str, norm: int) -> None:
    gradients = [g.bfloat16() for g in random_gradients(40, shapes=WIDE)]
    for index in range(40):
        optimizer = without_noise(mechanism=mechanism, shapes=WIDE)
        step(optimizer, rows(gradients, index))
        assert np.linalg.norm(released(optimizer), norm) <= 1 + ROUNDING


def test_opacus_alone_would_clip_bfloat16_over_the_bound() -> None:
    gradients = [g.bfloat16() for g in random_gradients(40, shapes=WIDE)]
    norms = []
    for index in range(40):
        optimizer = without_noise(shapes=WIDE)
        for parameter, gradient in zip(optimizer.params, rows(gradients, index), strict=True):
            parameter.grad_sample = gradient
        DPOptimizer.clip_and_accumulate(optimizer)
        norms.append(float(torch.cat([p.summed_grad.flatten() for p in optimizer.params]).norm()))

    assert max(norms) > 1 + 100 * ROUNDING


# Non-finite gradients.


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_examples_count_as_zero_and_are_counted(mechanism: str, poison: float) -> None:
    gradients = random_gradients(5)
    poisoned = [g.clone() for g in gradients]
    poisoned[0][1, 0, 0] = poison
    poisoned[1][3, 2] = poison
    optimizer, reference = without_noise(mechanism=mechanism), without_noise(mechanism=mechanism)

    step(optimizer, poisoned)
    step(reference, rows(gradients, 0, 2, 4))

    assert optimizer.zeroed_examples == 2
    # The same float32 numbers in a sum of five as in one of three: rounding alone.
    np.testing.assert_allclose(released(optimizer), released(reference), atol=1e-5)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_finite_gradients_whose_norm_overflows_stay_under_the_bound(mechanism: str) -> None:
    optimizer = without_noise(mechanism=mechanism)

    step(optimizer, [g.sign() * 3e38 for g in random_gradients(2)])

    assert np.isfinite(released(optimizer)).all()
    assert np.linalg.norm(released(optimizer), optimizer._mechanism.norm) <= 2 * (1 + ROUNDING)


# Batches.


def test_an_empty_batch_still_takes_a_noisy_step() -> None:
    optimizer = make_optimizer(source=keyed_source(1, "empty"))

    step(optimizer, random_gradients(0))

    source = keyed_source(1, "empty")
    noise = np.concatenate([source.gaussian(12, std=1.0), source.gaussian(5, std=1.0)])
    # The noise in float64, rounded to float32.
    np.testing.assert_allclose(released(optimizer), noise, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_the_denominator_is_the_expected_batch_size(count: int) -> None:
    optimizer = without_noise()

    step(optimizer, [torch.full((count, *shape), 0.01) for shape in SHAPES])

    for parameter in optimizer.params:
        expected = torch.full_like(parameter, -0.01 * count / EXPECTED_BATCH)
        # float32 sums of equal terms.
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=0)


def test_gradients_in_the_sum_are_not_added_again() -> None:
    optimizer, once = without_noise(), without_noise()
    gradients = random_gradients(4)
    step(once, gradients)

    for parameter, batch in zip(optimizer.params, gradients, strict=True):
        parameter.grad_sample = batch.clone()
    for skipped in (True, False):
        optimizer.signal_skip_step(do_skip=skipped)
        optimizer.step()

    np.testing.assert_array_equal(released(optimizer), released(once))


def test_a_sum_that_was_released_is_not_released_again() -> None:
    optimizer = make_optimizer()
    for parameter, batch in zip(optimizer.params, random_gradients(2), strict=True):
        parameter.grad_sample = batch
    optimizer.step()

    with pytest.raises(PrivacyUnitError, match="no clipped sum"):
        optimizer.add_noise()


def test_a_sum_that_was_given_up_is_forgotten() -> None:
    optimizer, fresh = without_noise(), without_noise()
    for parameter, batch in zip(optimizer.params, random_gradients(4), strict=True):
        parameter.grad_sample = batch
    optimizer.clip_and_accumulate()
    optimizer.zero_grad(set_to_none=True)

    for each in (optimizer, fresh):
        step(each, random_gradients(2, seed=1))

    np.testing.assert_array_equal(released(optimizer), released(fresh))


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("size", [1, 5, 7, 11])
def test_physical_batches_sum_to_the_logical_batch(mechanism: str, size: int) -> None:
    gradients = random_gradients(12)
    split, whole = make_optimizer(mechanism=mechanism), make_optimizer(mechanism=mechanism)

    step(split, *(rows(gradients, *range(i, min(i + size, 12))) for i in range(0, 12, size)))
    step(whole, gradients)

    # The same noise, and at most 12 clipped rows summed in another order in float32.
    np.testing.assert_allclose(released(split), released(whole), atol=12 * ROUNDING)


def test_a_step_forgets_the_step_before() -> None:
    gradients = random_gradients(4)
    twice, once = without_noise(), without_noise()

    step(twice, gradients)
    step(twice, gradients)
    step(once, gradients)

    np.testing.assert_allclose(released(twice), 2 * released(once), atol=ROUNDING)


def test_two_backward_passes_are_not_taken_for_one_batch() -> None:
    optimizer = make_optimizer()
    for parameter, gradients in zip(optimizer.params, random_gradients(2), strict=True):
        parameter.grad_sample = [gradients, gradients]

    with pytest.raises(PrivacyUnitError, match="two backward passes"):
        optimizer.step()


def test_tensors_that_disagree_on_the_batch_are_refused() -> None:
    optimizer = make_optimizer()
    first, second = random_gradients(4)
    optimizer.params[0].grad_sample, optimizer.params[1].grad_sample = first, second[:3]

    with pytest.raises(PrivacyUnitError, match="different batch sizes"):
        optimizer.step()


# Noise.

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

    def gaussian(self, size: int, *, std: float) -> NDArray[np.float64]:
        self.asked += size
        return super().gaussian(size, std=std)


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
