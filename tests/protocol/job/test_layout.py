"""Adapters and updates as vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ProtocolError
from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.messages.vector import from_bytes, to_bytes

LAYOUT = AdapterLayout(
    slots=(
        TensorSlot(name="a", shape=(2, 3), trained=False),
        TensorSlot(name="b", shape=(4,), trained=True),
        TensorSlot(name="c", shape=(2, 2), trained=True),
    )
)


def test_join_and_split_are_inverse() -> None:
    vector = np.arange(14, dtype=np.float32)
    assert np.array_equal(LAYOUT.join(LAYOUT.split(vector)), vector)
    assert (LAYOUT.adapter_size, LAYOUT.update_size) == (14, 8)


def test_an_update_moves_the_trained_tensors_only() -> None:
    adapter = np.zeros(14, np.float32)
    moved = LAYOUT.apply(adapter, np.arange(1, 9, dtype=np.float32))
    assert moved.tolist() == [0] * 6 + [1, 2, 3, 4, 5, 6, 7, 8]
    assert not adapter.any()


@pytest.mark.parametrize("size", [0, 7, 9, 14])
def test_an_update_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match="vector of 8"):
        LAYOUT.split_update(np.zeros(size, np.float32))


def test_tensors_that_differ_from_the_layout_are_named() -> None:
    tensors = LAYOUT.split(np.zeros(14, np.float32))
    with pytest.raises(ProtocolError, match="c"):
        LAYOUT.join({name: t for name, t in tensors.items() if name != "c"})
    with pytest.raises(ProtocolError, match="b"):
        LAYOUT.join({**tensors, "b": np.zeros(5, np.float32)})


def test_the_digest_tells_layouts_apart() -> None:
    def digest(trained: bool, shape: tuple[int, ...], name: str) -> str:
        slot = TensorSlot(name=name, shape=shape, trained=trained)
        return AdapterLayout(slots=(slot,)).digest

    digests = {
        digest(True, (2, 3), "a"),
        digest(False, (2, 3), "a"),
        digest(True, (3, 2), "a"),
        digest(True, (2, 3), "b"),
    }
    assert len(digests) == 4


def test_unordered_or_repeated_names_are_refused() -> None:
    slots = (LAYOUT.slots[1], LAYOUT.slots[0])
    with pytest.raises(ProtocolError, match="in order"):
        AdapterLayout(slots=slots)
    with pytest.raises(ProtocolError, match="distinct"):
        AdapterLayout(slots=(LAYOUT.slots[0], LAYOUT.slots[0]))


def test_vectors_travel_exactly() -> None:
    vector = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    assert from_bytes(to_bytes(vector), size=9).tobytes() == vector.tobytes()


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 12])
def test_vectors_of_another_length_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="8 bytes"):
        from_bytes(data, size=2)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(number: float) -> None:
    data = np.array([1.0, number], np.float32).tobytes()
    with pytest.raises(ProtocolError, match="NaN or infinity"):
        from_bytes(data, size=2)


@given(st.integers(1, 4), st.integers(0, 999))
def test_what_is_local_is_in_no_update(rank: int, seed: int) -> None:
    """Whatever a site's own tensors are, what it sends is the same; and they come back as they were."""
    layout = AdapterLayout(
        slots=(
            TensorSlot(name="a.lora_A.weight", shape=(rank, 3), trained=True),
            TensorSlot(name="a.lora_B.weight", shape=(4, rank), trained=True, local=True),
            TensorSlot(name="head", shape=(2,), trained=False),
        )
    )
    random = np.random.default_rng(seed)
    before, after, other = random.standard_normal((3, layout.adapter_size)).astype(np.float32)
    own = layout.local_part(other)
    assert (layout.update_size, layout.local_size) == (3 * rank, 4 * rank)
    mine = layout.with_local(after, own)
    assert np.array_equal(layout.change(before, mine), layout.change(before, after))
    assert np.array_equal(layout.local_part(mine), own)
    applied = layout.apply(mine, layout.change(before, after))
    assert np.array_equal(layout.local_part(applied), own)


def test_what_stays_at_a_site_is_in_the_digest() -> None:
    def laid_out(local: bool) -> AdapterLayout:
        return AdapterLayout(slots=(TensorSlot(name="b", shape=(2,), trained=True, local=local),))

    assert laid_out(local=True).digest != laid_out(local=False).digest
