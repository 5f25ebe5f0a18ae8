"""Clipping of gradients that are held as factors, against clipping of the gradients themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import privacy.mechanisms.factored_clipping
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.banded_noise import COARSE_STEPS
from privacy.mechanisms.clipping import STEPS, ClippedSum, clip_gradients
from privacy.mechanisms.counted_sum import GRADIENT_STEPS, CountedSum
from privacy.mechanisms.exact_products import FINER
from privacy.mechanisms.factored_clipping import clip_found
from privacy.mechanisms.factored_gradients import Factors
from privacy.mechanisms.mechanism import NO_NOISE
from privacy.mechanisms.rng import keyed_source

# Inputs are rounded to 2^-25 of their largest, as float32 numbers are to 2^-24 of their own size.
CLOSE = 1e-7
Mixed = list[torch.Tensor | Factors]


def drawn(
    *, n: int = 4, places: int = 1, wide: int = 6, high: int = 5, scale: float = 1.0, seed: int = 0
) -> Mixed:
    """Factors of two layers, and a plain tensor between them; lengths differ a hundredfold by example."""
    random = np.random.default_rng(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    sizes = scale * 10 ** torch.linspace(-1, 1, n)[:, None, None]
    return [
        Factors(inputs=numbers(n, places, wide), outputs=sizes * numbers(n, places, high)),
        sizes[:, 0] * numbers(n, 3),
        Factors(inputs=1e3 * numbers(n, places, high), outputs=1e-3 * sizes * numbers(n, places, wide)),
    ]


def whole(gradients: Sequence[torch.Tensor | Factors]) -> list[torch.Tensor]:
    return [g.whole() if isinstance(g, Factors) else g for g in gradients]


def rows(gradients: Mixed, kept: Sequence[int]) -> Mixed:
    index = torch.tensor(kept, dtype=torch.int64)
    return [g.take(index) if isinstance(g, Factors) else g.index_select(0, index) for g in gradients]


def exactly(clipped: ClippedSum) -> np.ndarray:
    """The sum with its rests, in units of 2^-20 steps: Python's integers."""
    found = []
    for number, tensor in enumerate(clipped.tensors):
        rest = clipped.rests.get(number, torch.zeros_like(tensor))
        parts = zip(tensor.flatten().tolist(), rest.flatten().tolist(), strict=True)
        found += [steps * 2**FINER + more for steps, more in parts]
    return np.array(found, object)


def length(vector: np.ndarray) -> float:
    """In clipping norms, of a vector in units of 2^-20 steps; rounded up."""
    squared = sum(int(x) ** 2 for x in vector)
    return math.nextafter(math.isqrt(squared) + 1, math.inf) / (STEPS * 2**FINER)


@given(
    n=st.integers(0, 5),
    places=st.integers(1, 7),
    wide=st.integers(1, 12),
    high=st.integers(1, 12),
    scale=st.sampled_from([1e-6, 0.03, 1.0, 1e3, 1e12]),
    bound=st.sampled_from([1e-9, 0.1, 1.0, 1e9]),
    steps=st.sampled_from([STEPS, GRADIENT_STEPS]),
)
def test_as_clipping_the_gradients_themselves(
    n: int, places: int, wide: int, high: int, scale: float, bound: float, steps: int
) -> None:
    gradients = drawn(n=n, places=places, wide=wide, high=high, scale=scale)
    found = clip_found(gradients, bound=bound, norm=2, steps=steps)
    expected = clip_gradients(whole(gradients), bound=bound, norm=2, steps=steps)
    assert (found.bound, found.norm, found.steps) == (bound, 2, steps)
    assert (found.zeroed, found.within) == (expected.zeroed, expected.within)
    for one, other in zip(found.tensors, expected.tensors, strict=True):
        assert one.dtype == torch.int64
        assert one.shape == other.shape
        assert float((one - other).double().abs().max()) <= CLOSE * STEPS * max(n, 1)


@given(
    places=st.integers(1, 6),
    scale=st.sampled_from([0.3, 1.0, 1e6, 1e20]),
    cancelled=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_an_example_is_no_longer_than_the_bound(
    places: int, scale: float, cancelled: bool, seed: int
) -> None:
    gradients = drawn(n=1, places=places, scale=scale, seed=seed)
    if cancelled:  # far larger products, of which next to nothing is left
        for number in (0, 2):
            one = gradients[number]
            assert isinstance(one, Factors)
            back = Factors(inputs=one.inputs, outputs=-one.outputs * (1 + 1e-5))
            gradients[number] = Factors.joined([one, back], dim=1)
    found = clip_found(gradients, bound=1.0, norm=2)
    # What rounding a sum down adds at most, of so many numbers, has to fit as well.
    assert length(exactly(found)) + math.sqrt(60) / STEPS <= 1.0
    if scale >= 1e6 and not cancelled:
        assert length(exactly(found)) > 1 - 1e-5


def test_what_an_example_adds_follows_from_it_alone_and_sums_are_exact() -> None:
    gradients = drawn(n=5, places=3, scale=1.0)
    total = exactly(clip_found(gradients, bound=1.0, norm=2))
    alone = [clip_found(rows(gradients, [row]), bound=1.0, norm=2) for row in range(5)]
    assert np.array_equal(sum(exactly(one) for one in alone), total)
    # In physical batches, in any order, and with a batch of nobody.
    nobody = clip_gradients([g[:0] for g in whole(gradients)], bound=1.0, norm=2)
    joined = nobody
    for one in (alone[3], alone[0], alone[4], alone[1], alone[2]):
        joined = joined.joined(one)
    at_once = clip_found(gradients, bound=1.0, norm=2).joined(nobody)
    for found, expected in zip(joined.tensors, at_once.tensors, strict=True):
        assert torch.equal(found, expected)
    assert all(torch.equal(joined.rests[number], at_once.rests[number]) for number in (0, 2))
    assert joined.rests.keys() == {0, 2}


def test_leaving_an_example_out_moves_what_is_released_by_the_bound_at_most() -> None:
    gradients = drawn(n=6, places=2, scale=1e4)
    everyone = clip_found(gradients, bound=1.0, norm=2)
    for row in range(6):
        rest = clip_found(rows(gradients, [r for r in range(6) if r != row]), bound=1.0, norm=2)
        moved = [one - other for one, other in zip(everyone.tensors, rest.tensors, strict=True)]
        squared = sum(int(x) ** 2 for tensor in moved for x in tensor.flatten().tolist())
        assert (0.9999 * STEPS) ** 2 < squared <= STEPS**2


def test_several_uses_of_a_weight_are_one_gradient() -> None:
    one, other = drawn(n=3, seed=1)[0], drawn(n=3, seed=2)[0]
    assert isinstance(one, Factors)
    assert isinstance(other, Factors)
    found = clip_found([Factors.joined([one, other], dim=1)], bound=1.0, norm=2)
    expected = clip_gradients([one.whole() + other.whole()], bound=1.0, norm=2)
    apart = clip_gradients([torch.cat([one.whole(), other.whole()])], bound=1.0, norm=2)
    assert float((found.tensors[0] - expected.tensors[0]).double().norm()) < CLOSE * STEPS
    assert float((found.tensors[0] - apart.tensors[0]).double().norm()) > 0.1 * STEPS


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["inputs", "outputs", "plain"])
def test_one_that_is_not_finite_is_zero_in_all_tensors(poison: float, where: str) -> None:
    gradients = drawn(n=4, places=2)
    expected = clip_found(rows(gradients, [0, 1, 3]), bound=1.0, norm=2)
    if where == "plain":
        plain = gradients[1]
        assert isinstance(plain, torch.Tensor)
        plain[2, 0] = poison
    else:
        getattr(gradients[2], where)[2, 1, 0] = poison
    found = clip_found(gradients, bound=1.0, norm=2)
    assert (found.zeroed, found.within) == (1, expected.within)
    assert np.array_equal(exactly(found), exactly(expected))


def test_a_blank_example_adds_nothing_and_is_neither_within_the_bound_nor_beyond() -> None:
    gradients = rows(drawn(n=2), [0])
    blank: Mixed = [
        Factors.blank(1, like=g) if isinstance(g, Factors) else torch.zeros_like(g) for g in gradients
    ]
    found = clip_found(blank, bound=1.0, norm=2)
    assert not exactly(found).any()
    assert (found.zeroed, found.within) == (0, 0)


@pytest.mark.parametrize(
    ("norm", "steps"), [(1, STEPS), (2, COARSE_STEPS)], ids=["a bound in L1", "a coarse grid"]
)
def test_is_multiplied_first_where_sums_cannot_be_of_products(norm: int, steps: float) -> None:
    gradients = drawn(n=3)
    found = clip_found(gradients, bound=1.0, norm=norm, steps=steps)
    expected = clip_gradients(whole(gradients), bound=1.0, norm=norm, steps=steps)
    assert not found.rests
    assert all(torch.equal(one, other) for one, other in zip(found.tensors, expected.tensors, strict=True))


def test_is_multiplied_first_beside_sparse_tensors_and_where_tensors_are_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, plain, _ = drawn(n=3)
    assert isinstance(plain, torch.Tensor)
    sparse = clip_found([first, plain.to_sparse(1)], bound=1.0, norm=2)
    expected = clip_found([first, plain], bound=1.0, norm=2)
    assert not sparse.rests
    assert expected.rests
    for one, other in zip(sparse.tensors, expected.tensors, strict=True):
        assert float((one - other).double().abs().max()) <= CLOSE * STEPS
    for limit in ("_NUMBERS_MAX", "_SPREAD_MAX"):
        with monkeypatch.context() as patch:
            patch.setattr(privacy.mechanisms.factored_clipping, limit, 29)
            assert not clip_found([first, plain], bound=1.0, norm=2).rests
            patch.setattr(privacy.mechanisms.factored_clipping, limit, 30)
            assert clip_found([first, plain], bound=1.0, norm=2).rests


def test_a_count_beside_it_is_released_with_it() -> None:
    clipped = clip_found(drawn(n=4), bound=1.0, norm=2, steps=GRADIENT_STEPS)
    released = NO_NOISE.release(CountedSum(clipped=clipped), keyed_source(0, "nothing"))
    assert released.excess == clipped.within
    assert torch.equal(released.tensors[0], clipped.tensors[0].double() * clipped.step)


def test_refuses_factors_that_do_not_fit_and_batches_that_differ() -> None:
    with pytest.raises(PrivacyUnitError, match=r"got \[2, 3, 4\] and \[2, 1, 5\]"):
        Factors(inputs=torch.zeros(2, 3, 4), outputs=torch.zeros(2, 1, 5))
    first, plain, _ = drawn(n=3)
    assert isinstance(plain, torch.Tensor)
    with pytest.raises(PrivacyUnitError, match="different batch sizes"):
        clip_found([first, plain[:2]], bound=1.0, norm=2)
    with pytest.raises(PrivacyUnitError, match="expected a bound in"):
        clip_found([first, plain], bound=0.0, norm=2)


@pytest.mark.parametrize(("norm", "steps"), [(2, COARSE_STEPS), (1, STEPS)])
def test_products_do_not_depend_on_who_else_is_in_the_batch(
    norm: int, steps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library may add a batch's products in an order that depends on how many they are."""
    multiply = torch.bmm

    def by_height(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return multiply(first, second) * (1 + 1e-3 * len(first))

    monkeypatch.setattr(torch, "bmm", by_height)
    gradients = drawn(n=5, places=3)
    together = clip_found(gradients, bound=0.5, norm=norm, steps=steps)
    apart = [clip_found(rows(gradients, [one]), bound=0.5, norm=norm, steps=steps) for one in range(5)]
    joined = apart[0]
    for one in apart[1:]:
        joined = joined.joined(one)
    assert exactly(joined).tolist() == exactly(together).tolist()
