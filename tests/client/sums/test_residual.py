"""The residual: nothing is lost or sent twice, whichever rounds are asked, and the clipped bound holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.sums.residual import Residual
from privacy.errors import ProtocolError
from privacy.mechanisms.clipping import clip
from protocol.sums.sparsification import decode_top, draw_support, encode_top, support_seed

SIZE = 40


def whole(number: int, attempt: int = 0) -> np.ndarray:
    """A made-up update of whole numbers, whose sums are exact in float32."""
    drawn = np.random.default_rng((number, attempt)).normal(0.0, 1000.0, SIZE)
    return np.round(drawn).astype(np.float32)


def take(total: np.ndarray, number: int, share: float = 0.25) -> np.ndarray:
    support = draw_support(support_seed(bytes(32), number), size=len(total), share=share)
    return support.spread(support.take(total))


def send(residual: Residual, update: np.ndarray, number: int) -> np.ndarray:
    total = residual.add(update, round_number=number)
    sent = take(total, number)
    residual.keep(total - sent, round_number=number)
    return sent


# -- What is refused


@pytest.mark.parametrize("shape", [(SIZE - 1,), (SIZE + 1,), (2, SIZE // 2)])
def test_vectors_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    residual = Residual(SIZE)
    with pytest.raises(ProtocolError, match="a vector of 40 numbers"):
        residual.add(np.zeros(shape, np.float32), round_number=1)
    residual.add(whole(1), round_number=1)
    with pytest.raises(ProtocolError, match="a vector of 40 numbers"):
        residual.keep(np.zeros(shape, np.float32), round_number=1)


@pytest.mark.parametrize("number", [1, 3])
def test_the_rest_of_another_round_is_refused(number: int) -> None:
    residual = Residual(SIZE)
    residual.add(whole(2), round_number=2)
    with pytest.raises(ProtocolError, match=f"the rest of round 2, got that of round {number}"):
        residual.keep(whole(2), round_number=number)


# -- What is sent, and what waits


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans()), max_size=12))
def test_each_rounds_last_attempt_is_sent_or_waits_once(rounds: list[tuple[int, int, bool]]) -> None:
    """Rounds are left out, asked again, broken off before ``keep``: sent + waiting = counted updates."""
    residual = Residual(SIZE)
    number, counted, sent = 0, np.zeros(SIZE), np.zeros(SIZE)
    for left_out, attempts, broken in rounds:
        number += 1 + left_out
        for attempt in range(attempts):
            update = whole(number, attempt)
            last = send(residual, update, number)
        if broken:
            residual.add(whole(number, 99), round_number=number)
            continue
        sent += last
        counted += update
    waiting = residual.add(np.zeros(SIZE, np.float32), round_number=number + 1)
    np.testing.assert_array_equal(sent + waiting, counted)


def test_a_residual_that_forgets_about_repetition_would_send_twice() -> None:
    """The control for the test above: the same rounds, but each attempt numbered as a round of its own."""
    careful, careless = Residual(SIZE), Residual(SIZE)
    for attempt in range(3):
        send(careful, whole(1), 1)
        send(careless, whole(1), 1 + attempt)
    nothing = np.zeros(SIZE, np.float32)
    np.testing.assert_array_equal(careful.add(nothing, round_number=9), whole(1) - take(whole(1), 1))
    assert np.abs(careless.add(nothing, round_number=9)).sum() > 1.5 * np.abs(whole(1)).sum()


def test_a_round_asked_again_starts_where_it_started() -> None:
    residual = Residual(SIZE)
    send(residual, whole(1), 1)
    first = residual.add(whole(2), round_number=2)
    residual.keep(first - take(first, 2), round_number=2)
    np.testing.assert_array_equal(residual.add(whole(2), round_number=2), first)


def test_an_earlier_round_starts_from_zero() -> None:
    residual = Residual(SIZE)
    send(residual, whole(1), 1)
    send(residual, whole(2), 2)
    np.testing.assert_array_equal(residual.add(whole(1), round_number=1), whole(1))


def test_nothing_of_the_caller_s_is_kept_or_changed() -> None:
    residual, update = Residual(SIZE), whole(1)
    total = residual.add(update, round_number=1)
    residual.keep(total, round_number=1)
    total[:] = 0
    update[:] = 0
    np.testing.assert_array_equal(residual.add(update, round_number=2), whole(1))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_wait(odd: float) -> None:
    residual, rest = Residual(SIZE), whole(1)
    residual.add(rest, round_number=1)
    rest[3] = odd
    residual.keep(rest, round_number=1)
    later = residual.add(np.zeros(SIZE, np.float32), round_number=2)
    np.testing.assert_array_equal(np.delete(later, 3), np.delete(whole(1), 3))
    assert later[3] == 0


@pytest.mark.parametrize("kind", ["random", "top-k"])
def test_what_waits_stays_bounded_and_everything_arrives(kind: str) -> None:
    """A steady update, 400 rounds at a share of 0.1: the mean of what was sent is close to it.

    What waits at the end is what is missing from the sum. Under a random support a coordinate waits 9
    rounds on average, so that the mean misses 9/400 of it; by the time any has waited 150 rounds the
    chance is 40 · 0.9^150 = 5e-6, so that no coordinate of the mean misses more than 150/400. The largest
    never let one wait longer than until it is larger than those that were sent meanwhile: with sizes
    between 1 and 2, 20 rounds' worth of the largest.
    """
    rounds, share = 400, 0.1
    steady = np.linspace(1.0, 2.0, SIZE).astype(np.float32)
    residual, sent = Residual(SIZE), np.zeros(SIZE)
    for number in range(1, rounds + 1):
        total = residual.add(steady, round_number=number)
        if kind == "random":
            part = take(total, number, share)
        else:
            part = decode_top(encode_top(total, share=share), size=SIZE, share=share)
        residual.keep(total - part, round_number=number)
        sent += part
    missing = (steady - sent / rounds) / steady
    assert missing.mean() < 2 * 9 / rounds
    assert missing.max() < (150 if kind == "random" else 40) / rounds


def lengths(update: np.ndarray | None, share: float) -> np.ndarray:
    """‖sent‖ / ‖update‖ by round, of a steady update or of independent ones."""
    size, rounds, residual = 4000, 150, Residual(4000)
    generator, found = np.random.default_rng(0), []
    for number in range(1, rounds + 1):
        new = generator.standard_normal(size).astype(np.float32) if update is None else update
        total = residual.add(new, round_number=number)
        sent = take(total, number, share)
        residual.keep(total - sent, round_number=number)
        found.append(np.linalg.norm(sent) / np.linalg.norm(new))
    return np.array(found[50:])  # by then, 0.9^50 = 0.5 % have never been sent


def test_what_is_sent_is_as_long_as_the_residual_says() -> None:
    """A waiting time W is geometric: E[W] = 1/s, E[W²] = (2 − s)/s², and s of the coordinates are sent.

    For a steady update ‖sent‖²/‖u‖² is s · E[W²] = (2 − s)/s; for independent ones s · E[W] = 1. Mean of
    100 rounds of 400 coordinates: W² has a relative deviation of √5, so that a round's square is off by
    √5/20 = 11 % and the mean, of rounds that are alike for some ten, by 4 %; the root by half of that.
    """
    share = 0.1
    steady = lengths(np.ones(4000, np.float32), share)
    assert steady.mean() == pytest.approx(np.sqrt((2 - share) / share), rel=0.08)
    assert lengths(None, share).mean() == pytest.approx(1.0, rel=0.08)


def test_with_unit_site_a_round_is_bounded_whatever_waits() -> None:
    """Clipped after the residual is added. Clipped before, what waited would pass the bound."""
    bound, steady = 1.0, np.full(SIZE, 1.0, np.float32)
    residual, after, before = Residual(SIZE), [], []
    for number in range(1, 30):
        total = residual.add(
            clip(steady, bound=bound, norm=2).reals.astype(np.float32), round_number=number
        )
        sent = take(total, number)
        residual.keep(total - sent, round_number=number)
        before.append(np.linalg.norm(sent.astype(np.float64)))
        after.append(np.linalg.norm(clip(sent, bound=bound, norm=2).reals))
    assert max(after) <= bound * (1 + 1e-12)  # rounding in float64, as ``clip`` says
    assert max(before) > 1.5 * bound
