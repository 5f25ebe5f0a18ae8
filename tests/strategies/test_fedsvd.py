"""FedSVD's refactoring."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.job.layout import AdapterLayout, TensorSlot
from strategies.fedsvd import refactor
from tests.models import CASES, random_adapter


def layout(rank: int, rows: int, columns: int) -> AdapterLayout:
    return AdapterLayout(
        slots=(
            TensorSlot(name="head.weight", shape=(2, 3), trained=True),
            TensorSlot(name="l.lora_A.weight", shape=(rank, columns), trained=False),
            TensorSlot(name="l.lora_B.weight", shape=(rows, rank), trained=True),
        )
    )


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 4),
    rows=st.integers(1, 9),
    columns=st.integers(4, 9),
    seed=st.integers(0, 2**32 - 1),
    deficient=st.booleans(),
)
def test_refactoring_keeps_the_product_and_makes_a_orthonormal(
    rank: int, rows: int, columns: int, seed: int, deficient: bool
) -> None:
    rows = max(rows, rank)
    form = layout(rank, rows, columns)
    generator = np.random.default_rng(seed)
    tensors = {s.name: generator.standard_normal(s.shape).astype(np.float32) for s in form.slots}
    if deficient and rank > 1:
        tensors["l.lora_B.weight"][:, -1] = 0.0
    found = form.split(refactor(form.join(tensors), form))
    before = tensors["l.lora_B.weight"] @ tensors["l.lora_A.weight"]
    after = found["l.lora_B.weight"] @ found["l.lora_A.weight"]
    # float32 rounding of the factors: 2^-23 relative, times the product's size and a few sums.
    np.testing.assert_allclose(after, before, atol=1e-5 * max(1.0, np.abs(before).max()))
    a = found["l.lora_A.weight"]
    np.testing.assert_allclose(a @ a.T, np.eye(rank), atol=1e-5)
    assert np.array_equal(found["head.weight"], tensors["head.weight"])


@settings(max_examples=20, deadline=None)
@given(
    rank=st.integers(1, 3),
    kernel=st.sampled_from([(3,), (2, 2), (1, 2, 2)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_halves_of_convolutions_are_refactored_as_the_matrices_that_they_are(
    rank: int, kernel: tuple[int, ...], seed: int
) -> None:
    one = tuple(1 for _ in kernel)
    form = AdapterLayout(
        slots=(
            TensorSlot(name="l.lora_A.weight", shape=(rank, 3, *kernel), trained=False),
            TensorSlot(name="l.lora_B.weight", shape=(5, rank, *one), trained=True),
        )
    )
    before = np.random.default_rng(seed).standard_normal(form.adapter_size).astype(np.float32)
    after = refactor(before, form)
    products = []
    for adapter in (before, after):
        tensors = form.split(adapter)
        a, b = tensors["l.lora_A.weight"].reshape(rank, -1), tensors["l.lora_B.weight"].reshape(5, rank)
        products.append(b @ a)
    # As above; A's rows have 6 to 12 numbers.
    np.testing.assert_allclose(products[1], products[0], atol=1e-5 * max(1.0, np.abs(products[0]).max()))
    np.testing.assert_allclose(a @ a.T, np.eye(rank), atol=1e-5)


def test_a_zero_b_keeps_its_a() -> None:
    form = layout(2, 5, 6)
    tensors = {s.name: np.zeros(s.shape, np.float32) for s in form.slots}
    tensors["l.lora_A.weight"] = np.arange(12, dtype=np.float32).reshape(2, 6)
    adapter = form.join(tensors)
    assert refactor(adapter, form).tobytes() == adapter.tobytes()


def test_a_model_answers_as_before() -> None:
    """A round's end changes no loss: what was merged is what is trained on, in another basis."""
    adapted = CASES["bert-qv-head"].adapted(strategy={"name": "fedsvd"})
    batch = CASES["bert-qv-head"].examples((3, 5, 7)).batch(np.arange(3))
    adapted.peft.eval()
    losses = []
    adapter = random_adapter(adapted)
    for each in (adapter, refactor(adapter, adapted.layout), np.zeros_like(adapter)):
        adapted.load(each)
        with torch.no_grad():
            losses.append(adapted.forward(batch).losses.numpy())
    # Products agree to some 1e-6, over two layers of float32; another adapter has other losses.
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-4)
    assert np.abs(losses[2] - losses[0]).max() > 1e-2
