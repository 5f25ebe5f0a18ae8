"""Sums under homomorphic encryption: ciphertexts are added, and only their sum is opened.

All sites share one secret key, which the coordinator never has: it needs no key material, only the
``Parameters``. Each site encrypts its update; ciphertexts are added; one site opens the sum. That site is
handed every site's ciphertext, signed, and adds them up itself: ``open_sum``. Had it one ciphertext to
open, as the coordinator may choose, it would give away one site's update.

What masks do and this does not: the coordinator together with any single site reads every update, since all
have the key. On the other hand, who drops out after sending leaves nothing to be uncovered.

**Numbers.** An update is cut to ``[-reach, reach]`` and rounded to integers of ``reach / steps``. CKKS is
approximate (Cheon et al. 2017, eprint 2016/421), but a sum of integers is exact once its noise is rounded
off: the scale is such that half a step is 12 standard deviations of the noise of as many ciphertexts as
there may be, of which float64 takes less than a sixteenth. Noise is subgaussian, so it gets past the other
11.25 with a probability under 2·exp(−63) < 2^-89 a slot; that encoding rounds as if at random
is assumed. A slot holds two integers ``a + base·b``, which halves the bytes.

**Why not the decrypted numbers as they are.** Their noise depends on the key and the messages: who knows
ciphertext and result, as the coordinator does, solves linear equations for the key (Li and Micciancio 2021,
eprint 2020/1533). Flooding it for s bits of security takes noise larger by about 2^(s/2) (Li et al. 2022,
eprint 2022/816), and a modulus with room for that. Here it is rounded off before anything leaves: what is
given away is the sum of integers, a function of the messages alone, but for the probability above. Exact
schemes fall as well where decryption may fail, as when one ciphertext is added many times over (Cheon et
al. 2024, eprint 2024/127): so a sum has ``sites`` ciphertexts at most, all different. That each is a site's
own is for the signatures under them to say. The sum itself is as private as its updates' noise makes it.

**Security.** Degree 4096 with a modulus of 80 bits, of which ciphertexts use 60; 109 bits are the limit for
128 bits of security (Albrecht et al. 2018, the homomorphic encryption standard, table 1; eprint 2019/939).
Noise and keys come from SEAL's own generator, seeded by the operating system: they cannot be passed in.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.secagg.ckks.ciphertexts import (
    DEGREE,
    REFUSALS,
    SLOTS,
    Parameters,
    draw_context,
    key_context,
    keyless_context,
    load_tenseal,
    read_ciphertexts,
    serialize,
    write,
)

VALUES = 2 * SLOTS  # of a ciphertext
# Two polynomials of 64-bit words, which do not compress, and what says so.
_CIPHERTEXT = 2 * 8 * DEGREE + 2048


def ciphertext_count(size: int) -> int:
    """How many ciphertexts hold ``size`` numbers. Raises ProtocolError unless there is one at least."""
    if size < 1:
        raise ProtocolError(f"expected a positive number of an update's numbers, got size={size}")
    return -(-size // VALUES)


def longest_content(size: int) -> int:
    """How many bytes the ciphertexts of ``size`` numbers take at most. Raises as ``ciphertext_count``."""
    return ciphertext_count(size) * _CIPHERTEXT


def make_key(parameters: Parameters) -> bytes:
    """Draw a secret key for all sites of a run; whoever has it reads every update.

    It is some 46 kB, TenSEAL's context with its secret key. Raises UserError without TenSEAL.
    """
    return serialize(draw_context(parameters), secret=True)


def encrypt(key: bytes, update: NDArray[np.floating], *, parameters: Parameters, reach: float) -> bytes:
    """Encrypt an update, float[d], each number cut to ``[-reach, reach]``: 65.7 kB for each 4,096 of them.

    Every call draws fresh noise, so one update's ciphertexts differ. Raises ProtocolError for a key of
    other parameters, a number that is not finite or a reach that is not positive; UserError without
    TenSEAL.
    """
    _check_reach(reach)
    numbers = np.asarray(update, np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ProtocolError(f"expected an update of finite numbers, float[d], got shape={numbers.shape}")
    integers = np.rint(np.clip(numbers / reach, -1.0, 1.0) * parameters.steps)
    padded = np.zeros((ciphertext_count(len(integers)), 2, SLOTS))
    padded.reshape(-1)[: len(integers)] = integers
    # Exact in float64: the sum of all sites' is under the modulus over twice the scale, 2^46.
    slots = padded[:, 0] + parameters.base * padded[:, 1]
    context = key_context(key, parameters)
    return write(load_tenseal().ckks_vector(context, row.tolist()) for row in slots)


def add(contents: Sequence[bytes], *, parameters: Parameters, size: int) -> bytes:
    """Add ciphertexts of ``size`` numbers, without any key: what comes back is as long as one of them.

    Raises ProtocolError for none, more than ``parameters.sites``, one that comes twice, or bytes that are
    no ciphertexts of so many numbers; UserError without TenSEAL.
    """
    return write(_added(contents, parameters, size, keyless_context(parameters)))


def open_sum(
    key: bytes,
    contents: Sequence[bytes],
    *,
    parameters: Parameters,
    size: int,
    reach: float,
    min_survivors: int,
) -> NDArray[np.float32]:
    """Add the sites' ciphertexts and decrypt the sum, float32[size], of ``min_survivors`` at least.

    This is what a site answers with. That each content is another site's, of this round, is for the
    signatures under them to say: check those first. Raises ProtocolError for fewer, or fewer than two, and
    as ``add`` and ``decrypt`` do; UserError without TenSEAL.
    """
    if not 2 <= min_survivors <= len(contents):
        raise ProtocolError(
            f"expected a sum of two sites and of min_survivors={min_survivors} at least, got "
            f"contents={len(contents)}: "
            "a smaller one says too much about each of them"
        )
    context = key_context(key, parameters)
    vectors = _added(contents, parameters, size, context)
    return _decoded(vectors, len(contents), parameters=parameters, size=size, reach=reach)


def decrypt(
    key: bytes, content: bytes, *, parameters: Parameters, size: int, reach: float, sites: int
) -> NDArray[np.float32]:
    """Decrypt one content, the sum of ``sites`` updates, to float32[size].

    Never one that the coordinator chose: ``open_sum`` is for those. Raises ProtocolError for bytes that are
    no ciphertexts of so many numbers, and for a sum that so many sites cannot have, which is what comes of
    another key; UserError without TenSEAL.
    """
    context = key_context(key, parameters)
    vectors = read_ciphertexts(
        content, count=ciphertext_count(size), parameters=parameters, context=context
    )
    return _decoded(vectors, sites, parameters=parameters, size=size, reach=reach)


def _added(contents: Sequence[bytes], parameters: Parameters, size: int, context: Any) -> list[Any]:
    different = len({hashlib.sha256(content).digest() for content in contents})
    if not 1 <= len(contents) <= parameters.sites or different != len(contents):
        raise ProtocolError(
            f"expected 1 to {parameters.sites} different ciphertexts, got {len(contents)}, of which "
            f"different={different}"
        )
    count = ciphertext_count(size)
    total = read_ciphertexts(contents[0], count=count, parameters=parameters, context=context)
    for content in contents[1:]:
        vectors = read_ciphertexts(content, count=count, parameters=parameters, context=context)
        for one, more in zip(total, vectors, strict=True):
            try:
                one.add_(more)
            except REFUSALS as error:
                raise ProtocolError(f"expected ciphertexts that can be added: {error}") from None
    return total


def _decoded(
    vectors: list[Any], sites: int, *, parameters: Parameters, size: int, reach: float
) -> NDArray[np.float32]:
    _check_reach(reach)
    if not 1 <= sites <= parameters.sites:
        raise ProtocolError(f"expected a sum of 1 to {parameters.sites} sites, got sites={sites}")
    # Rounding comes first: nothing with the noise in it goes any further.
    slots = np.rint(np.stack([_slots(vector) for vector in vectors]))
    high = np.rint(slots / parameters.base)
    low = slots - parameters.base * high
    integers = np.stack([low, high], axis=1).reshape(-1)
    if not np.abs(integers).max() <= sites * parameters.steps or integers[size:].any():
        raise ProtocolError(
            f"expected a sum of sites={sites} updates within their reach, got numbers beyond it: it was "
            "encrypted under another key, or for another size or number of sites"
        )
    return (integers[:size] * (reach / parameters.steps)).astype(np.float32)


def _slots(vector: Any) -> NDArray[np.float64]:
    """The decrypted slots, float64[SLOTS], with their noise, which is as secret as the key."""
    try:
        return np.array(vector.decrypt(), np.float64)
    except REFUSALS as error:
        raise ProtocolError(f"expected a ciphertext that can be decrypted: {error}") from None


def _check_reach(reach: float) -> None:
    if not (math.isfinite(reach) and reach > 0):
        raise ProtocolError(f"expected how far an update's numbers may reach, got reach={reach}")
