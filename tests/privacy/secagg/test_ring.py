"""Integers modulo a power of two: what is added, what is read, and what travels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from privacy.errors import ProtocolError
from privacy.secagg.ring import Ring

BITS = st.sampled_from([16, 20, 32, 64])
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=17)


def centred(integer: int, bits: int) -> int:
    """By Python's integers: from the residue to the half that it is in."""
    half = 1 << (bits - 1)
    return (integer + half) % (1 << bits) - half


def as_array(integers: list[int]) -> np.ndarray:
    return np.array(integers, np.int64)


# Refused.


@pytest.mark.parametrize("bits", [0, 1, 8, 17, 24, 31, 33, 128, -16])
def test_other_moduli_are_refused(bits: int) -> None:
    with pytest.raises(ProtocolError, match=f"bits={bits}"):
        Ring(bits)


@given(bits=BITS, size=st.integers(0, 9), off=st.sampled_from([-1, 1, 8]))
def test_bytes_of_another_length_are_refused(bits: int, size: int, off: int) -> None:
    ring = Ring(bits)
    length = ring.packed_size(size) + off
    if length >= 0:
        with pytest.raises(ProtocolError, match=f"got {length}"):
            ring.unpack(bytes(length), size=size)


# Sums.


@given(bits=BITS, integers=INTEGERS)
def test_words_are_the_integers_modulo_the_power(bits: int, integers: list[int]) -> None:
    ring = Ring(bits)
    words = ring.words(as_array(integers))
    assert words.dtype == ring.dtype
    assert words.tolist() == [integer % (1 << bits) for integer in integers]
    assert ring.centred(words).tolist() == [centred(integer, bits) for integer in integers]


@settings(max_examples=50)
@given(
    bits=BITS,
    rows=arrays(
        np.int64, st.tuples(st.integers(1, 6), st.integers(0, 9)), elements=st.integers(-(2**57), 2**57)
    ),
)
def test_a_sum_of_words_is_the_sum(bits: int, rows: np.ndarray) -> None:
    """In the words' own type, wrapping around on the way; six integers of 2^57 stay inside int64."""
    ring = Ring(bits)
    total = np.zeros(rows.shape[1], ring.dtype)
    for row in rows:
        total += ring.words(row)
    expected = rows.sum(axis=0)
    assert np.array_equal(ring.reduced(total), ring.words(expected))
    # Read with bits above the modulus or without.
    assert np.array_equal(ring.centred(total), ring.centred(ring.words(expected)))


@given(bits=BITS, integers=INTEGERS, masks=st.data())
def test_a_mask_that_is_subtracted_is_gone(bits: int, integers: list[int], masks: st.DataObject) -> None:
    ring = Ring(bits)
    words = ring.words(as_array(integers))
    mask = ring.words(
        as_array(masks.draw(st.lists(st.integers(0, 2**63 - 1), min_size=len(words), max_size=len(words))))
    )
    assert np.array_equal(ring.reduced(ring.reduced(words + mask) - mask), words)


@pytest.mark.parametrize("bits", [16, 20, 32, 64])
def test_the_ends_of_the_range(bits: int) -> None:
    ring, half = Ring(bits), 1 << (bits - 1)
    ends = [0, 1, -1, half - 1, -half]
    assert ring.centred(ring.words(as_array(ends))).tolist() == ends
    if bits < 64:
        beyond = ring.centred(ring.words(as_array([half, -half - 1]))).tolist()
        assert beyond == [-half, half - 1]


# Bytes.


@given(bits=BITS, integers=INTEGERS)
def test_what_is_packed_is_unpacked(bits: int, integers: list[int]) -> None:
    ring = Ring(bits)
    words = ring.words(as_array(integers))
    data = ring.pack(words)
    assert len(data) == ring.packed_size(len(words)) == -(-len(words) * bits // 8)
    found = ring.unpack(data, size=len(words))
    assert found.dtype == ring.dtype
    assert np.array_equal(found, words)


@given(bits=BITS, integers=INTEGERS)
def test_bytes_are_one_little_endian_number(bits: int, integers: list[int]) -> None:
    """Another reading of the format: each word ``bits`` above the one before, no gaps."""
    ring = Ring(bits)
    number = sum((integer % (1 << bits)) << (bits * place) for place, integer in enumerate(integers))
    size = ring.packed_size(len(integers))
    assert ring.pack(ring.words(as_array(integers))) == number.to_bytes(size, "little")


@pytest.mark.parametrize(
    ("bits", "packed"),
    [
        (16, "4523efcdffff"),
        (20, "4523f1deacffff0f"),
        (32, "4523a1ffefcdaa00ffffffff"),
        (64, "4523a1ffffffffffefcdaa0000000000ffffffffffffffff"),
    ],
)
def test_known_bytes(bits: int, packed: str) -> None:
    integers = as_array([-0x5EDCBB, 0xAACDEF, -1])
    assert Ring(bits).pack(Ring(bits).words(integers)).hex() == packed
