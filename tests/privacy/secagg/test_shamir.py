"""Secret sharing: enough shares give the secret, fewer say nothing, and what is no share is refused."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from privacy.errors import AggregationError
from privacy.secagg import shamir
from privacy.secagg.shamir import PRIME, SHARE_BYTES, Combiner, Random, draw_secret, is_share, split
from tests.privacy.exchanges import FALSE_ALARM, chi_squared, modular_inverse, stream

SECRET = (2**200 + 12345).to_bytes(SHARE_BYTES, "little")


def number(content: bytes) -> int:
    return int.from_bytes(content, "little")


def element(value: int) -> bytes:
    return (value % PRIME).to_bytes(SHARE_BYTES, "little")


elements = st.integers(0, PRIME - 1).map(element)


@pytest.mark.parametrize(
    "share",
    [
        b"",
        bytes(SHARE_BYTES - 1),
        bytes(SHARE_BYTES + 1),
        PRIME.to_bytes(SHARE_BYTES, "little"),
        (2**256 - 1).to_bytes(SHARE_BYTES, "little"),
    ],
)
def test_what_is_no_share_is_refused(share: bytes) -> None:
    good = split(SECRET, threshold=2, points=[1, 2, 3], random=stream(0))
    calls = (
        lambda: Combiner([1, 2]).combine([good[0], share]),
        lambda: split(share, threshold=2, points=[1, 2, 3], random=stream(0)),
    )
    for call in calls:
        with pytest.raises(AggregationError, match="below 2") as refused:
            call()
        assert refused.value.rule == "share"
    assert not is_share(share)
    assert is_share(element(PRIME - 1))


@pytest.mark.parametrize("points", [[], [0, 1], [1, 1], [-1, 2], [2, 0]])
def test_points_are_distinct_and_from_one(points: list[int]) -> None:
    """At zero the share is the secret itself."""
    for call in (
        lambda: Combiner(points),
        lambda: split(SECRET, threshold=1, points=points, random=stream(0)),
    ):
        with pytest.raises((AggregationError, ValueError)) as refused:
            call()
        assert getattr(refused.value, "rule", "share") == "share"


@pytest.mark.parametrize("threshold", [0, -1, 4])
def test_an_impossible_threshold_is_refused(threshold: int) -> None:
    with pytest.raises(AggregationError, match=f"threshold={threshold}"):
        split(SECRET, threshold=threshold, points=[1, 2, 3], random=stream(0))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_shares_as_points(count: int) -> None:
    shares = split(SECRET, threshold=2, points=[1, 2, 3], random=stream(0))
    with pytest.raises(AggregationError, match=f"got {count}"):
        Combiner([1, 2]).combine(shares[:count])


@settings(max_examples=40, deadline=None)
@given(secret=elements, count=st.integers(1, 7), data=st.data())
def test_every_subset_of_threshold_gives_the_secret(secret: bytes, count: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, count))
    points = data.draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count, unique=True))
    shares = split(secret, threshold=threshold, points=points, random=stream(data.draw(st.integers())))
    for chosen in combinations(range(count), threshold):
        combiner = Combiner([points[place] for place in chosen])
        assert combiner.combine([shares[place] for place in chosen]) == secret


@settings(max_examples=25, deadline=None)
@given(secret=elements, threshold=st.integers(2, 6), seed=st.integers())
def test_a_share_under_another_point_or_from_another_sharing_gives_another_secret(
    secret: bytes, threshold: int, seed: int
) -> None:
    """One wrong share among enough: the secret moves by its weight times the error, which is never zero."""
    points = list(range(1, threshold + 1))
    shares = split(secret, threshold=threshold, points=points, random=stream(seed))
    assert Combiner([*points[:-1], threshold + 1]).combine(shares) != secret
    for place in range(threshold):
        wrong = [*shares]
        wrong[place] = element(number(shares[place]) + 1)
        assert Combiner(points).combine(wrong) != secret


def coefficients(secret: bytes, shares: dict[int, bytes]) -> list[int]:
    """The one polynomial of degree ``len(shares)`` through a secret at 0 and the shares: powers from 1 up.

    Newton's divided differences, then their expansion; nothing of privacy/secagg/shamir.py.
    """
    xs = [0, *shares]
    table = [number(secret), *map(number, shares.values())]
    for order in range(1, len(xs)):
        for place in range(len(xs) - 1, order - 1, -1):
            difference = table[place] - table[place - 1]
            table[place] = difference * modular_inverse(xs[place] - xs[place - order]) % PRIME
    polynomial = [table[-1]]
    for place in range(len(xs) - 2, -1, -1):
        raised = [0, *polynomial]
        for power, value in enumerate(polynomial):
            raised[power] -= xs[place] * value
        raised[0] += table[place]
        polynomial = [value % PRIME for value in raised]
    return polynomial[1:]


@settings(max_examples=40, deadline=None)
@given(secret=elements, other=elements, threshold=st.integers(2, 6), seed=st.integers())
def test_one_share_less_fits_every_secret_equally_well(
    secret: bytes, other: bytes, threshold: int, seed: int
) -> None:
    """For each secret exactly one draw of the coefficients gives these t − 1 shares, and draws are uniform.

    So the shares have the same distribution whatever the secret: the exact argument, played in the code.
    """
    points = list(range(1, threshold + 1))
    seen = split(secret, threshold=threshold, points=points, random=stream(seed))[:-1]
    drawn = coefficients(other, dict(zip(points, seen, strict=False)))
    # Split draws from the highest power down.
    order = iter([element(value) for value in reversed(drawn)])
    again = split(other, threshold=threshold, points=points, random=lambda _size: next(order))
    assert again[:-1] == seen
    assert next(order, None) is None
    assert Combiner(points).combine(again) == other


def shares_look_uniform(random: Random) -> bool:
    """χ² of each third share's top bits and low bits, of many sharings of one secret, and of their sum."""
    sharings = [split(SECRET, threshold=3, points=[1, 2, 9], random=random) for _ in range(3000)]
    values = np.array([[number(share) for share in sharing] for sharing in sharings], dtype=object)
    pairs = [values[:, 0], values[:, 1], values[:, 2], (values[:, 0] + values[:, 1]) % PRIME]
    limit = chi2.isf(FALSE_ALARM, 127)
    return all(
        chi_squared((column >> shift & 127).astype(np.int64), cells=128) < limit
        for column in pairs
        # The prime is 2^255 less 19: the top seven bits are even to one part in 2^243.
        for shift in (0, 100, 248)
    )


def test_shares_are_uniform() -> None:
    assert shares_look_uniform(stream("uniform"))


@pytest.mark.parametrize("bits", [128, 248, 254])
def test_shares_from_short_coefficients_are_not(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a drawing that leaves out the highest bits is seen; its shares at small points are small."""

    def short(random: Random) -> int:
        return number(random(SHARE_BYTES)) & ((1 << bits) - 1)

    monkeypatch.setattr(shamir, "_draw", short)
    assert not shares_look_uniform(stream("short"))


def test_a_draw_beyond_the_prime_is_drawn_again() -> None:
    """Reduced instead, the lowest 19 elements would come twice as often; the 256th bit is left out."""
    draws = iter([(2**255 - 1), PRIME, 2**256 - 19, 7 + 2**255])
    assert draw_secret(lambda size: next(draws).to_bytes(size, "little")) == element(7)
