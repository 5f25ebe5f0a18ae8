"""Homomorphic sums: exact, opened only together, and whatever else comes as bytes is refused."""

from __future__ import annotations

import contextlib
import math
import struct
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import ProtocolError, UserError
from privacy.secagg.ckks import ciphertexts, homomorphic
from privacy.secagg.ckks.ciphertexts import DEGREE, MODULUS_BITS, Parameters
from privacy.secagg.ckks.homomorphic import VALUES, add, decrypt, encrypt, make_key, open_sum

ts = pytest.importorskip("tenseal")
sealapi = pytest.importorskip("tenseal.sealapi")

PARAMETERS = Parameters(sites=4)
KEY = make_key(PARAMETERS)
SIZE = 5000  # two ciphertexts, the second one not full
REACH = 0.7
# A test at this level fails for one draw of noise in a million.
LEVEL = 1e-6


def updates(sites: int, *, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Some of them beyond their reach."""
    return np.random.default_rng(seed).normal(0.0, 0.4, (sites, size)).astype(np.float32)


def integers(update: np.ndarray, parameters: Parameters) -> np.ndarray:
    return np.rint(np.clip(update.astype(np.float64) / REACH, -1, 1) * parameters.steps)


def exact(all_updates: np.ndarray, parameters: Parameters) -> np.ndarray:
    total = integers(all_updates, parameters).sum(axis=0)
    return (total * (REACH / parameters.steps)).astype(np.float32)


def encrypted(
    all_updates: np.ndarray, *, key: bytes = KEY, parameters: Parameters = PARAMETERS
) -> list[bytes]:
    return [encrypt(key, update, parameters=parameters, reach=REACH) for update in all_updates]


CONTENTS = encrypted(updates(3))
ONE = CONTENTS[0]


def opened(
    contents: Sequence[bytes], *, key: bytes = KEY, size: int = SIZE, min_survivors: int = 2
) -> np.ndarray:
    return open_sum(
        key, contents, parameters=PARAMETERS, size=size, reach=REACH, min_survivors=min_survivors
    )


# What is refused.


@pytest.mark.parametrize("sites", [-1, 0, 1, 1025])
def test_sums_have_a_possible_number_of_sites(sites: int) -> None:
    with pytest.raises(ProtocolError, match=f"sites={sites}"):
        Parameters(sites=sites)


@pytest.mark.parametrize("min_survivors", [0, 1, 4])
def test_too_few_are_not_opened(min_survivors: int) -> None:
    with pytest.raises(ProtocolError, match=f"min_survivors={min_survivors}"):
        opened(CONTENTS, min_survivors=min_survivors)


@pytest.mark.parametrize("contents", [[], [ONE]])
def test_one_site_is_not_opened(contents: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="says too much"):
        opened(contents)


def test_the_same_ciphertext_does_not_count_twice() -> None:
    with pytest.raises(ProtocolError, match="different=1"):
        opened([ONE, ONE])
    with pytest.raises(ProtocolError, match="different=1"):
        add([ONE, ONE], parameters=PARAMETERS, size=SIZE)


def test_more_than_the_scale_was_chosen_for_are_not_added() -> None:
    five = encrypted(updates(5, size=3))
    with pytest.raises(ProtocolError, match="expected 1 to 4 different ciphertexts"):
        add(five, parameters=PARAMETERS, size=3)


@pytest.mark.parametrize("update", [[], [[1.0]], [math.nan], [1.0, math.inf]])
def test_what_is_no_update_is_not_encrypted(update: list) -> None:
    with pytest.raises(ProtocolError, match="expected an update of finite numbers"):
        encrypt(KEY, np.array(update, np.float32), parameters=PARAMETERS, reach=REACH)


@pytest.mark.parametrize("reach", [0.0, -1.0, math.nan, math.inf])
def test_a_reach_is_positive(reach: float) -> None:
    with pytest.raises(ProtocolError, match="reach="):
        encrypt(KEY, np.zeros(3), parameters=PARAMETERS, reach=reach)
    with pytest.raises(ProtocolError, match="reach="):
        decrypt(KEY, ONE, parameters=PARAMETERS, size=SIZE, reach=reach, sites=1)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(ProtocolError, match="another key"):
        opened(CONTENTS, key=make_key(PARAMETERS))


def without_secret(key: bytes) -> bytes:
    return ts.context_from(key, 1).serialize(save_secret_key=False)


def of_another_degree(_: bytes) -> bytes:
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        8192,
        coeff_mod_bit_sizes=[60, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = PARAMETERS.scale
    return context.serialize(save_secret_key=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: b"",
        lambda key: key[:-1],
        lambda key: key[:100],
        lambda key: bytes(1000),
        lambda key: make_key(Parameters(sites=100)),
        without_secret,
        of_another_degree,
    ],
)
def test_what_is_no_key_for_these_parameters_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ProtocolError, match=r"expected a (secret )?key"):
        encrypt(change(KEY), np.zeros(3), parameters=PARAMETERS, reach=REACH)


def first_frame(content: bytes) -> bytes:
    (length,) = struct.unpack_from("<I", content)
    return content[4 : 4 + length]


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: b"\0" * 4,
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[: len(content) // 2],
        lambda content: framed(first_frame(content)),
        lambda content: framed(*3 * [first_frame(content)]),
        lambda content: b"\xff" * 4 + content[4:],
        lambda content: framed(b"", b""),
        lambda content: framed(bytes(50_000), bytes(50_000)),
        lambda content: content * 10,
        lambda content: bytes(200_000),
    ],
)
def test_wrong_lengths_and_counts_are_refused(change: Callable[[bytes], bytes]) -> None:
    changed = change(ONE)
    for receive in (
        lambda: add([changed], parameters=PARAMETERS, size=SIZE),
        lambda: opened([CONTENTS[1], changed]),
        lambda: decrypt(KEY, changed, parameters=PARAMETERS, size=SIZE, reach=REACH, sites=1),
    ):
        with pytest.raises(ProtocolError):
            receive()


def test_a_length_too_long_never_reaches_tenseal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ciphertexts, "_vector", lambda *_: pytest.fail("it did"))
    with pytest.raises(ProtocolError, match="more than they can be"):
        add([bytes(10**6)], parameters=PARAMETERS, size=10)


def fields(frame: bytes) -> tuple[bytes, bytes, bytes]:
    """TenSEAL's message: the sizes, the ciphertext, the scale, each with its tag."""
    return frame[:4], frame[4:-9], frame[-9:]


@pytest.mark.parametrize(
    "sizes",
    [
        "",
        "0a00",
        "0a020110",
        "0a028020",
        "0a03008010",
        "0a0480108010",
        "0a05ffffffff0f",
        "0a0801ffffffff0f8010",
    ],
)
def test_sizes_that_lie_are_refused(sizes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TenSEAL would copy so many numbers from a buffer of 2048, for so many ciphertexts."""
    true, ciphertext, scale = fields(first_frame(ONE))
    assert true == bytes.fromhex("0a028010")
    lie = bytes.fromhex(sizes)
    monkeypatch.setattr(ts, "ckks_vector_from", lambda *_: pytest.fail("TenSEAL has read it"))
    for frame in (
        lie + ciphertext + scale,
        true + lie + ciphertext + scale,
        true + ciphertext + lie + scale,
        true + ciphertext + scale + lie,
    ):
        if frame != first_frame(ONE):
            with pytest.raises(ProtocolError, match="of another form"):
                decrypt(KEY, framed(frame), parameters=PARAMETERS, size=100, reach=REACH, sites=1)


def test_more_than_one_ciphertext_in_a_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protobuf joins fields that come again."""
    monkeypatch.setattr(ciphertexts, "_CIPHERTEXT_MAX", 10**6)
    sizes, ciphertext, scale = fields(first_frame(ONE))
    for frame in (sizes + 2 * ciphertext + scale, 2 * (sizes + ciphertext + scale)):
        with pytest.raises(ProtocolError, match="of another form"):
            add([framed(frame)], parameters=PARAMETERS, size=100)


def test_ciphertexts_at_another_scale_are_refused() -> None:
    other = Parameters(sites=100)
    content = encrypt(make_key(other), np.zeros(9), parameters=other, reach=REACH)
    with pytest.raises(ProtocolError, match="of another form"):
        add([content], parameters=PARAMETERS, size=9)


@pytest.mark.parametrize(("moduli", "scale"), [([58, 20], PARAMETERS.scale), ([60, 20], 2.0**10)])
def test_other_ciphertexts_in_the_right_form_are_refused(moduli: list[int], scale: float) -> None:
    """Those of other moduli SEAL refuses; a scale that is only inside the ciphertext is looked at here."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        DEGREE,
        coeff_mod_bit_sizes=moduli,
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    frame = ts.ckks_vector(context, [0.0] * (DEGREE // 2), scale).serialize()
    disguised = frame[:-8] + struct.pack("<d", PARAMETERS.scale)
    with pytest.raises(ProtocolError, match="expected one ciphertext of 2048 slots"):
        add([framed(disguised)], parameters=PARAMETERS, size=9)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 400) | st.integers(0, len(ONE) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_a_protocol_error_or_another_ciphertext(place: int, byte: int) -> None:
    changed = ONE[:place] + bytes([byte]) + ONE[place + 1 :]
    with contextlib.suppress(ProtocolError):
        decrypt(KEY, changed, parameters=PARAMETERS, size=SIZE, reach=REACH, sites=1)


@settings(max_examples=60, deadline=None)
@given(frame=st.binary(max_size=300))
def test_garbage_is_a_protocol_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        add([framed(frame)], parameters=PARAMETERS, size=9)
    with pytest.raises(ProtocolError):
        add([frame], parameters=PARAMETERS, size=9)


def test_sums_beyond_what_their_sites_can_have_are_refused() -> None:
    full = encrypted(np.full((3, 3), 10.0))
    total = add(full, parameters=PARAMETERS, size=3)
    with pytest.raises(ProtocolError, match="sites=2"):
        decrypt(KEY, total, parameters=PARAMETERS, size=3, reach=REACH, sites=2)
    with pytest.raises(ProtocolError, match="another size"):
        decrypt(KEY, total, parameters=PARAMETERS, size=2, reach=REACH, sites=3)
    for sites in (0, 5):
        with pytest.raises(ProtocolError, match=f"sites={sites}"):
            decrypt(KEY, total, parameters=PARAMETERS, size=3, reach=REACH, sites=sites)


def test_without_tenseal_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(UserError, match=r"pip install 'confide\[he\]'"):
        make_key(Parameters(sites=7))


# What holds.


@settings(max_examples=15, deadline=None)
@given(
    sites=st.integers(2, 4),
    size=st.sampled_from([1, 2, VALUES // 2, VALUES // 2 + 1, VALUES - 1, VALUES, VALUES + 1, SIZE]),
    seed=st.integers(0, 1000),
)
def test_sums_are_exact(sites: int, size: int, seed: int) -> None:
    """To the last bit: nothing of the ciphertexts' noise is left."""
    several = updates(sites, size=size, seed=seed)
    contents = encrypted(several)
    total = add(contents, parameters=PARAMETERS, size=size)
    found = decrypt(KEY, total, parameters=PARAMETERS, size=size, reach=REACH, sites=sites)
    assert found.dtype == np.float32
    assert np.array_equal(found, exact(several, PARAMETERS))
    assert np.array_equal(opened(contents, size=size, min_survivors=sites), found)


@pytest.mark.parametrize("sites", [2, 32, 128])
def test_sums_are_exact_at_the_ends(sites: int) -> None:
    """All sites at their reach: the largest slots, with the largest coefficients, and most noise."""
    parameters = Parameters(sites=sites)
    key = make_key(parameters)
    ends = np.concatenate([np.ones(VALUES), -np.ones(VALUES), np.tile([1.0, -1.0], VALUES // 2)])
    several = np.tile(ends, (sites, 1))
    contents = encrypted(several, key=key, parameters=parameters)
    found = open_sum(key, contents, parameters=parameters, size=len(ends), reach=REACH, min_survivors=sites)
    assert np.array_equal(found, (sites * REACH * ends).astype(np.float32))


@pytest.mark.parametrize("sites", [2, 10, 128])
def test_a_mean_is_as_near_as_promised(sites: int) -> None:
    parameters = Parameters(sites=sites)
    several = np.clip(updates(sites, size=300), -REACH, REACH)
    key = make_key(parameters)
    contents = encrypted(several, key=key, parameters=parameters)
    found = open_sum(key, contents, parameters=parameters, size=300, reach=REACH, min_survivors=sites)
    off = np.abs(found / sites - several.mean(axis=0, dtype=np.float64)).max() / REACH
    # Half a step, and float32's rounding of the mean: 2^-24.
    assert off <= 1 / (2 * parameters.steps) + 2.0**-24
    assert off < 2.0**-15


def test_parameters_keep_their_promises() -> None:
    for sites in range(2, 1025):
        parameters = Parameters(sites=sites)
        most = sites * parameters.steps
        slot = most + parameters.base * most
        # Two signs of the largest coefficient and the noise: at most 21 + 1/2 in a coefficient, a site.
        assert 2 * (slot * parameters.scale + 22 * sites) < 2 ** MODULUS_BITS[0] - 2**14
        assert 12 * parameters.slot_noise * math.sqrt(sites) / parameters.scale <= 1 / 2
        assert most < parameters.base / 2, "two integers of a slot must not run into each other"
        assert slot < 2**46
        # The docstring's errors of a mean.
        assert parameters.steps == 2**17 or sites > 28
        assert parameters.steps > 2**14 or sites > 152
        assert parameters.steps > 2**10.5


def test_the_modulus_is_within_the_standards_bound() -> None:
    limit = sealapi.CoeffModulus.MaxBitCount(DEGREE, sealapi.SEC_LEVEL_TYPE.TC128)
    assert sum(MODULUS_BITS) <= limit == 109


def test_a_number_takes_seventeen_bytes() -> None:
    size = 5 * VALUES
    content = encrypt(KEY, np.ones(size), parameters=PARAMETERS, reach=REACH)
    assert len(content) < 17 * size


def test_the_same_update_is_never_encrypted_alike() -> None:
    again = encrypt(KEY, updates(3)[0], parameters=PARAMETERS, reach=REACH)
    assert again != ONE


def test_sums_are_added_without_a_key() -> None:
    assert ciphertexts.keyless_context(PARAMETERS).is_public()
    vectors = homomorphic._added(CONTENTS, PARAMETERS, SIZE, ciphertexts.keyless_context(PARAMETERS))
    with pytest.raises(ValueError, match="secret_key"):
        vectors[0].decrypt()
    with pytest.raises(ProtocolError, match="decrypted"):
        homomorphic._slots(vectors[0])


# Noise.


def residuals(contents: list[bytes], several: np.ndarray) -> np.ndarray:
    """What a sum's slots hold beside integers, float64: what must not leave."""
    vectors = homomorphic._added(contents, PARAMETERS, SIZE, ciphertexts.key_context(KEY, PARAMETERS))
    slots = np.stack([homomorphic._slots(vector) for vector in vectors])
    total = integers(several, PARAMETERS).sum(axis=0)
    padded = np.zeros((2, 2, DEGREE // 2))
    padded.reshape(-1)[:SIZE] = total
    return (slots - padded[:, 0] - PARAMETERS.base * padded[:, 1]).ravel()


def test_noise_has_the_scale_and_no_other() -> None:
    """The 12 standard deviations are of this one: were SEAL's noise larger, sums would not be exact."""
    several = updates(4, seed=3)
    found = residuals(encrypted(several), several)
    std = PARAMETERS.slot_noise * 2 / PARAMETERS.scale
    assert stats.kstest(found, "norm", args=(0.0, std)).pvalue > LEVEL
    # 4096 draws of a scale wrong by a third give p-values below 1e-20.
    assert stats.kstest(found, "norm", args=(0.0, std * 2 / 3)).pvalue < LEVEL
    assert stats.kstest(found, "norm", args=(0.0, std * 3 / 2)).pvalue < LEVEL


def test_nothing_given_away_depends_on_the_noise() -> None:
    """Same messages, other noise, another key: the same bits. The slots themselves would not do."""
    several = updates(4, seed=4)
    one, other = encrypted(several), encrypted(several)
    assert not np.array_equal(residuals(one, several), residuals(other, several))
    assert np.array_equal(opened(one), opened(other))
    key = make_key(PARAMETERS)
    assert np.array_equal(opened(one), opened(encrypted(several, key=key), key=key))


def test_a_scale_for_less_noise_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """At two standard deviations, one slot in twenty is wrong, and says something about the noise."""
    monkeypatch.setattr(ciphertexts, "_DEVIATIONS", 2.0)
    broken = Parameters(sites=4)
    assert broken.scale < PARAMETERS.scale
    size = 2 * VALUES  # full: numbers in the padding would be noticed
    several = updates(4, size=size, seed=5)
    # Computed anew: the caches compare parameters by their sites.
    ciphertexts.keyless_context.cache_clear()
    ciphertexts.key_context.cache_clear()
    try:
        key = make_key(broken)
        contents = encrypted(several, key=key, parameters=broken)
        found = open_sum(key, contents, parameters=broken, size=size, reach=REACH, min_survivors=4)
    finally:
        ciphertexts.keyless_context.cache_clear()
        ciphertexts.key_context.cache_clear()
    assert not np.array_equal(found, exact(several, broken))
