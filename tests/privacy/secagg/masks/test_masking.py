"""Masks: the standard's key stream, exact in every ring, each word uniform."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import AggregationError
from privacy.secagg.masks import masking
from privacy.secagg.masks.masking import (
    BLOCK,
    KEY_BYTES,
    Stream,
    apply_masks,
    by_counter,
    by_gcm,
    fastest_stream,
)
from privacy.secagg.ring import Ring, Words
from tests.privacy.exchanges import draw_vectors, looks_uniform, stream

RINGS = [Ring(bits) for bits in (16, 20, 32, 64)]
STREAMS = pytest.mark.parametrize("stream", [by_counter, by_gcm], ids=["counter", "gcm"])

# NIST SP 800-38A, F.5.5 and F.5.6: AES-256 in counter mode.
NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHER = bytes.fromhex(
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)
# AES-256 in counter mode from two, of zeros under a key of zeros: the ciphertext of test case 14 in McGrew
# and Viega 2005, "The Galois/Counter Mode of Operation (GCM)", appendix B.
ZERO_BLOCK = "cea7403d4d606b6e074ec5d3baf39d18"


def mask(key: bytes, size: int, ring: Ring) -> Words:
    """A mask, written out: one key stream from a counter of two, read as words."""
    content = (
        Cipher(AES(key), CTR(bytes(15) + b"\x02")).encryptor().update(bytes(size * ring.dtype.itemsize))
    )
    return ring.reduced(np.frombuffer(content, ring.dtype))


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_has_32_bytes(size: int) -> None:
    """AES with 16 would do, and would not be what the docstring promises."""
    for keys in ({"add": [bytes(size)]}, {"subtract": [bytes(size)]}):
        with pytest.raises(AggregationError, match=f"got {size}") as refused:
            apply_masks(np.zeros(4, "<u4"), ring=Ring(32), **keys)
        assert refused.value.rule == "vector"


@pytest.mark.parametrize(
    "words",
    [np.zeros(4, "<u2"), np.zeros(4, "<u8"), np.zeros(4, "<i4"), np.zeros(4), np.zeros((2, 2), "<u4")],
    ids=str,
)
def test_words_of_another_ring_are_refused(words: np.ndarray) -> None:
    with pytest.raises(AggregationError, match="expected a vector of uint32") as refused:
        apply_masks(words, ring=Ring(32), add=[bytes(32)])
    assert refused.value.rule == "vector"


@STREAMS
def test_masks_are_what_was_published(stream: Stream) -> None:
    found = apply_masks(np.zeros(4, "<u4"), ring=Ring(32), add=[bytes(32)], stream=stream)
    assert found.tobytes().hex() == ZERO_BLOCK


def test_the_faster_stream_is_one_of_the_two() -> None:
    assert fastest_stream() in (by_counter, by_gcm)
    assert fastest_stream() is fastest_stream()


def test_key_streams_are_nists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the vector's counter, of which ours is two; both ways."""
    zeros = np.zeros(len(NIST_PLAIN) // 4, "<u4")
    monkeypatch.setattr(masking, "_CTR", CTR(NIST_COUNTER))
    found = apply_masks(zeros, ring=Ring(32), add=[NIST_KEY], stream=by_counter).tobytes()
    assert bytes(a ^ b for a, b in zip(found, NIST_PLAIN, strict=True)) == NIST_CIPHER
    assert bytes(a ^ b for a, b in zip(found, NIST_CIPHER, strict=True)) == NIST_PLAIN


@STREAMS
@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: str(ring.bits))
def test_blocks_are_one_stream(ring: Ring, stream: Stream) -> None:
    block = BLOCK // ring.dtype.itemsize
    for size in (0, 1, 7, block - 1, block, block + 1, 2 * block + 3):
        words = draw_vectors(["a"], ring=ring, size=size)["a"]
        before = words.copy()
        found = apply_masks(words, ring=ring, add=[bytes(32)], subtract=[NIST_KEY], stream=stream)
        np.testing.assert_array_equal(
            found, ring.reduced(words + mask(bytes(32), size, ring) - mask(NIST_KEY, size, ring))
        )
        np.testing.assert_array_equal(words, before)


@settings(max_examples=30, deadline=None)
@given(
    ring=st.sampled_from(RINGS),
    size=st.integers(0, 40),
    add=st.lists(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), max_size=4),
    subtract=st.lists(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), max_size=4),
    seed=st.integers(0, 1000),
)
def test_masks_come_off_as_they_went_on(
    ring: Ring, size: int, add: list[bytes], subtract: list[bytes], seed: int
) -> None:
    words = draw_vectors(["a"], ring=ring, size=size, seed=seed)["a"]
    masked = apply_masks(words, ring=ring, add=add, subtract=subtract)
    assert int(masked.max(initial=0)) < 1 << ring.bits
    np.testing.assert_array_equal(apply_masks(masked, ring=ring, add=subtract, subtract=add), words)


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: str(ring.bits))
@pytest.mark.parametrize("fill", [0, 1, -1])
def test_a_masked_word_is_uniform(ring: Ring, fill: int) -> None:
    """Whatever it was: over coordinates, and over keys at one coordinate."""
    words = ring.words(np.full(40_000, fill, np.int64))
    key = stream("mask")
    assert looks_uniform(apply_masks(words, ring=ring, add=[key(32)]), ring=ring)
    few = words[:2]
    firsts = np.array([apply_masks(few, ring=ring, subtract=[key(32)])[1] for _ in range(4000)], ring.dtype)
    assert looks_uniform(firsts, ring=ring)


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: str(ring.bits))
def test_masks_that_are_not_are_seen(ring: Ring) -> None:
    """Controls for the statistic: a word a bit short, a stream that repeats, a walk, and no mask."""
    good = mask(NIST_KEY, 40_000, ring)
    top = ring.dtype.type(1 << (ring.bits - 1))
    walk = ring.reduced(np.cumsum(good & ring.dtype.type(1023), dtype=ring.dtype))
    for broken in (good & ~top, good | ring.dtype.type(1), np.tile(good[:200], 200), walk, 0 * good):
        assert not looks_uniform(broken, ring=ring)
    assert looks_uniform(good, ring=ring)


def test_neighbouring_keys_have_nothing_in_common() -> None:
    keys = [bytes(31) + bytes([last]) for last in range(5)]
    masks = [mask(key, 20_000, Ring(32)) for key in keys]
    for first, second in pairwise(masks):
        assert looks_uniform(first - second, ring=Ring(32))
