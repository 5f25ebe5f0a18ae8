"""Clipping bounds what one example can do, and noise of the planned size is added once a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from opacus.optimizers import DPOptimizer

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import STEPS
from privacy.mechanisms.rng import keyed_source
from tests.client.optimizers import (
    EXPECTED_BATCH,
    ROUNDING,
    SHAPES,
    clipped,
    flat,
    make_optimizer,
    random_gradients,
    released,
    rows,
    step,
    without_noise,
)


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

    # The least noise there is has a deviation of 7 steps of the grid, and that of float32 comes on top.
    np.testing.assert_allclose(released(plain), released(noiseless), atol=1e-6)
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
    planned = optimizer._mechanism
    noise = np.concatenate([planned.noise(size, steps=STEPS, source=source) for size in (12, 5)])
    # The noise in steps of the grid, rounded to float32.
    np.testing.assert_allclose(released(optimizer), noise / STEPS, rtol=1e-6)


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
