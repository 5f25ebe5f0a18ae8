"""Products of whole numbers in float64, against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privacy.mechanisms.exact_products import FINER, INPUT_BITS, exact_product, with_rests


def whole_numbers(shape: tuple[int, ...], *, bits: int, seed: int) -> torch.Tensor:
    """Whole numbers of either sign of up to so many bits, as float64 has them."""
    random = np.random.default_rng(seed)
    drawn = np.rint(random.uniform(-1, 1, shape) * 2.0**bits)
    drawn.flat[0] = 2.0**bits
    return torch.from_numpy(drawn)


def integers(tensor: torch.Tensor) -> np.ndarray:
    return np.array([int(x) for x in tensor.flatten().tolist()], object).reshape(tensor.shape)


@pytest.mark.parametrize(
    ("terms", "bits"), [(1, 19), (7, 39), (1025, 39), (3000, 20), (5, 60), (4, 79), (3, 120), (6, 0)]
)
def test_every_bit_is_that_of_integers(terms: int, bits: int) -> None:
    outputs, inputs = (
        whole_numbers((terms, size), bits=most, seed=size) for size, most in ((3, bits), (5, INPUT_BITS))
    )
    whole, rest = exact_product(outputs, inputs)
    assert rest.min() >= 0
    assert rest.max() < 2**FINER
    found = integers(whole) * 2**FINER + integers(rest)
    assert not ((found - integers(outputs).T @ integers(inputs)) % 2**84).any()


def test_largest_numbers_of_one_sign_do_not_round() -> None:
    # All of a slice: one term more at once, and an odd sum would be beyond 2^53.
    outputs = torch.full((2051, 1), 2.0**19 - 1, dtype=torch.float64)
    inputs = torch.full((2051, 1), 2.0**INPUT_BITS - 1, dtype=torch.float64)
    whole, rest = exact_product(outputs, inputs)
    assert int(whole) * 2**FINER + int(rest) == 2051 * (2**19 - 1) * (2**INPUT_BITS - 1)


def test_rests_add_up_to_whole_steps() -> None:
    total = [torch.tensor([5, -3]), torch.tensor([7])]
    one, other = torch.tensor([2**FINER - 1, 3]), torch.tensor([2, 4])
    tensors, rests = with_rests(total, {0: one}, {0: other})
    assert [t.tolist() for t in tensors] == [[6, -3], [7]]
    assert {number: r.tolist() for number, r in rests.items()} == {0: [1, 7]}
    tensors, rests = with_rests(total, {}, {1: torch.tensor([9])})
    assert [t.tolist() for t in tensors] == [[5, -3], [7]]
    assert rests[1].tolist() == [9]


def test_a_million_of_the_largest_are_exact() -> None:
    """Their sum is beyond what an int64 holds before whole steps are carried."""
    terms = 2**20 + 3
    outputs = torch.full((terms, 1), 2.0**19, dtype=torch.float64)
    inputs = torch.full((terms, 1), 2.0**INPUT_BITS, dtype=torch.float64)
    whole, rest = exact_product(outputs, inputs)
    assert int(whole) * 2**FINER + int(rest) == terms * 2 ** (19 + INPUT_BITS)
