"""Sparsification: both ends know the same coordinates, every one has its turn, and no odd bytes pass."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from privacy.errors import ProtocolError
from protocol.sums.sparsification import decode_top, draw_support, encode_top, kept_count, support_seed

DIGEST = hashlib.sha256(b"a manifest").digest()
SEED = support_seed(DIGEST, 1)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
sizes = st.integers(1, 2000)
shares = st.one_of(st.sampled_from([1e-6, 0.001, 0.1, 0.5, 1.0]), st.floats(1e-6, 1.0))
updates = sizes.flatmap(lambda size: arrays(np.float32, size, elements=finite))


# -- What is refused


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_refused(seed: bytes) -> None:
    with pytest.raises(ProtocolError, match="a seed of 32 bytes"):
        draw_support(seed, size=10, share=0.5)


@pytest.mark.parametrize("shape", [(9,), (11,), (2, 5), ()])
def test_a_support_refuses_vectors_of_another_size(shape: tuple[int, ...]) -> None:
    support = draw_support(SEED, size=10, share=0.5)
    with pytest.raises(ProtocolError, match="a vector of 10 numbers"):
        support.take(np.zeros(shape, np.float32))
    with pytest.raises(ProtocolError, match="a vector of 5 numbers"):
        support.spread(np.zeros(shape, np.float32))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "got 0 bytes"),
        (floats(1, 2, 3) + bytes([0, 0]), "got 14 bytes"),  # a place is missing
        (floats(1, 2, 3) + bytes([0, 0, 0, 0]), "got 16 bytes"),  # a place is too many
        (floats(1, 2, 3) + bytes([0, 0, 255]), "of 3 coordinates, got those of 2"),  # the last gap goes on
        (floats(1, 2, 3) + bytes([0, 0, 28]), "places below 30, got 30"),
        (floats(1, 2, 3) + bytes([10, 10, 200]), "places below 30, got 222"),
        (floats(1, float("nan"), 3) + bytes(3), "NaN"),
        (floats(1, float("inf"), 3) + bytes(3), "NaN"),
    ],
)
def test_bytes_that_no_update_of_thirty_becomes_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        decode_top(data, size=30, share=0.1)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([0, 0, 0, 255], "got those of 3"),  # what follows the last place
        ([255, 255, 255, 0, 0], "expected 3 coordinates of 300 in 15 to 16 bytes"),
        ([0, 0, 0, 0], "got those of 4"),
        ([255, 45, 0, 0], "places below 300, got 302"),
        ([255, 255, 0, 0], "got those of 2"),
    ],
)
def test_places_of_long_gaps_are_checked_too(places: list[int], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        decode_top(floats(1, 2, 3) + bytes(places), size=300, share=0.01)


@settings(max_examples=200)
@given(st.integers(0, 40), shares, st.data())
def test_what_is_read_is_what_would_have_been_written(size: int, share: float, data: st.DataObject) -> None:
    """No two encodings of one content: whatever is accepted is in the one form that there is."""
    count = kept_count(size, share)
    places = st.lists(st.sampled_from([0, 0, 0, 1, 2, 7, 254, 255]), min_size=count, max_size=count + 1)
    values = data.draw(arrays(np.float32, count, elements=st.floats(1, 2, width=32)))
    content = values.tobytes() + bytes(data.draw(places))
    try:
        update = decode_top(content, size=size, share=share)
    except ProtocolError:
        return
    assert np.count_nonzero(update) == count
    assert encode_top(update, share=share) == content


@settings(max_examples=100)
@given(st.binary(max_size=60), st.integers(0, 400), shares)
def test_garbage_is_refused_or_read_and_nothing_else(data: bytes, size: int, share: float) -> None:
    try:
        update = decode_top(data, size=size, share=share)
    except ProtocolError:
        return
    assert update.shape == (size,)
    assert np.isfinite(update).all()


# -- The support that all sites share


def test_the_support_is_the_same_on_every_platform() -> None:
    """Figures of x86-64, numpy 2: another machine that finds others could not take part in a sum."""
    assert SEED.hex() == hashlib.sha256(b"confide support 1" + DIGEST + bytes(7) + b"\x01").hexdigest()
    kept = draw_support(bytes(32), size=50, share=0.2).kept
    # By hand: the ten lowest of the first 50 little-endian words of ChaCha20 under a zero key and nonce,
    # which begin 0xade0b876, 0x903df1a0, 0xe56a5d40, 0x28bd8653 (RFC 8439, appendix A.1, test vector 1).
    assert kept.tolist() == [3, 5, 13, 19, 28, 30, 34, 41, 43, 44]
    large = draw_support(bytes(32), size=100_000, share=0.1).kept
    assert (
        hashlib.sha256(large.astype("<i8").tobytes()).hexdigest()
        == "5bb40aaa3c84f7a5da05fb71641419258c12dba2f7c917c63083a2a200270398"
    )


@settings(max_examples=50)
@given(sizes, shares, st.integers(1, 1000))
def test_a_support_is_sorted_distinct_inside_and_of_its_size(size: int, share: float, number: int) -> None:
    support = draw_support(support_seed(DIGEST, number), size=size, share=share)
    assert len(support.kept) == kept_count(size, share)
    assert (np.diff(support.kept) > 0).all()
    assert support.kept[0] >= 0
    assert support.kept[-1] < size


def test_an_update_of_nothing_has_a_support_of_nothing() -> None:
    support = draw_support(SEED, size=0, share=0.5)
    assert support.spread(support.take(np.zeros(0, np.float32))).shape == (0,)
    assert decode_top(encode_top(np.zeros(0, np.float32), share=0.5), size=0, share=0.5).shape == (0,)


def test_rounds_and_manifests_have_supports_of_their_own() -> None:
    seeds = {support_seed(digest, number) for digest in (DIGEST, bytes(32)) for number in range(1, 200)}
    assert len(seeds) == 2 * 199
    first = draw_support(SEED, size=1000, share=0.1).kept
    other = draw_support(support_seed(DIGEST, 2), size=1000, share=0.1).kept
    # Of 100 coordinates, 100·100/1000 = 10 are expected in both, with a variance of
    # 10·0.9·900/999 = 8.1 (hypergeometric): 30 are seven standard deviations away.
    assert len(np.intersect1d(first, other)) < 30


def counts_over_rounds(size: int, share: float, rounds: int) -> np.ndarray:
    counts = np.zeros(size)
    for number in range(rounds):
        counts[draw_support(support_seed(DIGEST, number), size=size, share=share).kept] += 1
    return counts


def test_every_coordinate_is_kept_as_often_as_any_other() -> None:
    """Σ (count − Rp)² / (Rp(1 − p)) · (d − 1)/d is χ² of d − 1 degrees for simple random samples.

    Source: the covariance of a sample without replacement is −p(1 − p)/(d − 1) off the diagonal, which
    leaves the projection against the constant vector.
    """
    size, share, rounds = 200, 0.1, 2000

    def pvalue(counts: np.ndarray) -> float:
        spread = rounds * share * (1 - share)
        statistic = ((counts - rounds * share) ** 2).sum() / spread * (size - 1) / size
        return min(stats.chi2.cdf(statistic, size - 1), stats.chi2.sf(statistic, size - 1))

    counts = counts_over_rounds(size, share, rounds)
    assert pvalue(counts) > 1e-6  # fails by chance for two labels in a million
    # Broken ones: a coordinate that is never sent, and a support that takes turns instead of lots.
    stuck = counts.copy()
    stuck[0] = 0
    assert pvalue(stuck) < 1e-6
    assert pvalue(np.full(size, rounds * share)) < 1e-6


@settings(max_examples=50)
@given(updates, shares)
def test_what_is_taken_comes_back_to_its_place_unscaled(update: np.ndarray, share: float) -> None:
    support = draw_support(SEED, size=len(update), share=share)
    sent = support.spread(support.take(update))
    assert sent.dtype == np.float32
    np.testing.assert_array_equal(sent[support.kept], update[support.kept])
    rest = update - sent
    assert not rest[support.kept].any()
    np.testing.assert_array_equal(sent + rest, update)


@settings(max_examples=30)
@given(st.lists(arrays(np.int32, 60, elements=st.integers(-(2**20), 2**20)), min_size=1, max_size=5))
def test_sums_of_what_is_taken_are_what_is_taken_of_sums(updates: list[np.ndarray]) -> None:
    """Why the support is shared: integers below 2^24 add up exactly in float32."""
    support = draw_support(SEED, size=60, share=0.3)
    floats32 = [update.astype(np.float32) for update in updates]
    summed = np.sum([support.take(update) for update in floats32], axis=0)
    np.testing.assert_array_equal(summed, support.take(np.sum(floats32, axis=0)))


@pytest.mark.parametrize(
    ("size", "share", "count"), [(0, 0.5, 0), (1, 1e-9, 1), (10, 0.04, 1), (10, 0.16, 2), (10, 1.0, 10)]
)
def test_how_many_are_kept(size: int, share: float, count: int) -> None:
    assert kept_count(size, share) == count


# -- The largest coordinates


@settings(max_examples=100)
@given(updates, shares)
def test_the_largest_arrive_and_nothing_else(update: np.ndarray, share: float) -> None:
    size, count = len(update), kept_count(len(update), share)
    data = encode_top(update, share=share)
    assert 5 * count <= len(data) <= 5 * count + size // 255
    arrived = decode_top(data, size=size, share=share)
    # By another way: a stable sort by absolute value, of which the first of equals are taken.
    kept = np.argsort(-np.abs(update.astype(np.float64)), kind="stable")[:count]
    expected = np.zeros(size, np.float32)
    expected[kept] = update[kept]
    np.testing.assert_array_equal(arrived, expected)


@settings(max_examples=50)
@given(updates, shares)
def test_no_other_choice_of_as_many_leaves_less_behind(update: np.ndarray, share: float) -> None:
    arrived = decode_top(encode_top(update, share=share), size=len(update), share=share).astype(float)
    sent, left = np.abs(arrived), np.abs(update - arrived)
    count = kept_count(len(update), share)
    if count < len(update):
        assert np.sort(sent)[-count:].min() >= left.max()


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 5000])
def test_gaps_of_every_length_come_back(gap: int) -> None:
    update = np.zeros(gap + 3, np.float32)
    update[[0, gap + 1]] = 1.0, -2.0
    share = 2 / len(update)
    data = encode_top(update, share=share)
    assert len(data) == 8 + 2 + gap // 255
    np.testing.assert_array_equal(decode_top(data, size=len(update), share=share), update)


@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_sent_and_refused_at_the_other_end(odd: float) -> None:
    update = np.full(100, 3e38, np.float32)
    update[60] = odd
    with pytest.raises(ProtocolError, match="NaN or infinity"):
        decode_top(encode_top(update, share=0.01), size=100, share=0.01)


def test_only_vectors_are_encoded() -> None:
    with pytest.raises(ProtocolError, match="a vector of 4 numbers"):
        encode_top(np.zeros((2, 2), np.float32), share=0.5)
