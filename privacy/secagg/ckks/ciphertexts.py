"""CKKS ciphertexts as TenSEAL makes them: parameters, keys, and the bytes that travel.

What they are for, and what they protect, is in ``homomorphic``.
"""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from privacy.errors import ProtocolError, UserError

DEGREE = 4096
SLOTS = DEGREE // 2
# The second prime is for relinearization, which sums do without; TenSEAL makes no context without one.
MODULUS_BITS = (60, 20)
SITES_MAX = 1024

# A fresh ciphertext's noise has coefficients of SEAL's centred binomial, 42 halves: variance 10.5, and
# subgaussian for the same. Rounding to integers when a message is encoded adds a twelfth.
_NOISE_VARIANCE = 10.5 + 1 / 12
_DEVIATIONS = 12.0
# SEAL takes the largest prime of 60 bits that fits the degree, 2^60 − 16,383. Noise needs 2^16 of the rest.
_ROOM = 0.95 * 2.0 ** MODULUS_BITS[0]
# Finer than this, SEAL's float64 would be felt: at 2^17 its rounding stays under 1/16 of half a step.
_STEPS_MAX = 2**17

# Two polynomials of 64-bit words, and room for the heads that SEAL and TenSEAL put before them.
_CIPHERTEXT_MAX = 2 * 8 * DEGREE + 1024
_LENGTH = struct.Struct("<I")
# What SEAL and TenSEAL throw, as their bindings translate it.
REFUSALS = (RuntimeError, ValueError, IndexError, OverflowError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What both ends must agree on: how many ciphertexts a sum may have, and what follows from that.

    The grid is the finest that the modulus has room for: a mean is off by ``reach / (2 · steps)`` at most,
    which is 2^-18 of the reach up to 28 sites, under 2^-15 up to 152, and 2^-11.5 for 1,024. Raises
    ProtocolError unless ``sites`` is from 2 to 1024.
    """

    sites: int

    def __post_init__(self) -> None:
        if not 2 <= self.sites <= SITES_MAX:
            raise ProtocolError(
                f"expected 2 to {SITES_MAX} sites in a homomorphic sum, got sites={self.sites}"
            )

    @property
    def slot_noise(self) -> float:
        """The standard deviation of what one ciphertext's noise adds to a slot, before the scale.

        A slot is a polynomial at a root of unity: its real part adds coefficients times cosines, whose
        squares have the sum ``DEGREE / 2``.
        """
        return math.sqrt(_NOISE_VARIANCE * DEGREE / 2)

    @cached_property
    def scale(self) -> float:
        """What a slot is multiplied by: all sites' noise stays under half a step, by 12 deviations."""
        return float(math.ceil(2 * _DEVIATIONS * self.slot_noise * math.sqrt(self.sites)))

    @cached_property
    def steps(self) -> int:
        """How many integers there are from 0 to the reach."""
        # A slot is at most x + base · x with x = sites · steps, which is 2x(1 + x); so is a coefficient, a
        # mean of slots over roots of unity. Signs take the other half of the modulus.
        largest = math.sqrt(_ROOM / (4 * self.scale) + 1 / 4) - 1 / 2
        return min(_STEPS_MAX, math.floor(largest / self.sites))

    @cached_property
    def base(self) -> int:
        """What a slot's second integer is multiplied by: the first one's sums are within half of it."""
        return 2 * self.sites * self.steps + 1


def load_tenseal() -> Any:
    """The library. Raises UserError where it is not installed."""
    # By its name: it comes without types, and not with every installation.
    try:
        return importlib.import_module("tenseal")
    except ImportError:
        raise UserError("homomorphic sums need TenSEAL: pip install 'confide[he]'") from None


def serialize(context: Any, *, secret: bool) -> bytes:
    """A context's parameters, and its secret key if asked for."""
    data: bytes = context.serialize(
        save_public_key=False, save_secret_key=secret, save_galois_keys=False, save_relin_keys=False
    )
    return data


def draw_context(parameters: Parameters) -> Any:
    """A context with a fresh secret key, from SEAL's generator."""
    ts = load_tenseal()
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        DEGREE,
        coeff_mod_bit_sizes=list(MODULUS_BITS),
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = parameters.scale
    return context


# Making a context takes longer than adding with it.
@lru_cache(maxsize=4)
def keyless_context(parameters: Parameters) -> Any:
    """A context that adds, without any key."""
    return load_tenseal().context_from(serialize(draw_context(parameters), secret=False), 1)


@lru_cache(maxsize=4)
def key_context(key: bytes, parameters: Parameters) -> Any:
    """The context of a key. Raises ProtocolError unless it is one for these parameters."""
    ts = load_tenseal()
    try:
        context = ts.context_from(key, 1)
        fits = (
            context.is_private()
            and _level(context) == _level(keyless_context(parameters))
            and context.global_scale == parameters.scale
        )
    except REFUSALS as error:
        raise ProtocolError(f"expected a key for homomorphic sums, got bytes={len(key)}: {error}") from None
    if not fits:
        raise ProtocolError(
            f"expected a secret key for sums of sites={parameters.sites}, got another context"
        )
    return context


def write(vectors: Iterable[Any]) -> bytes:
    """Each ciphertext after its length, four bytes, little-endian."""
    parts: list[bytes] = []
    for vector in vectors:
        data: bytes = vector.serialize()
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def read_ciphertexts(content: bytes, *, count: int, parameters: Parameters, context: Any) -> list[Any]:
    """``count`` ciphertexts: lengths and form are checked before TenSEAL sees a byte.

    Raises ProtocolError for another number of them, and for what is no fresh ciphertext or sum of such.
    """
    if len(content) > count * (_LENGTH.size + _CIPHERTEXT_MAX):
        raise ProtocolError(
            f"expected {count} ciphertexts, got more than they can be: bytes={len(content)}"
        )
    frames: list[bytes] = []
    rest = memoryview(content)
    while len(rest) >= _LENGTH.size and len(frames) < count:
        (length,) = _LENGTH.unpack_from(rest)
        rest = rest[_LENGTH.size :]
        if length > min(len(rest), _CIPHERTEXT_MAX):
            raise ProtocolError(f"expected a ciphertext of {length} bytes, got {len(rest)} and too few")
        frames.append(bytes(rest[:length]))
        rest = rest[length:]
    if len(frames) != count or len(rest):
        raise ProtocolError(
            f"expected {count} ciphertexts and nothing after them, got {len(frames)} and {len(rest)} bytes"
        )
    return [_vector(frame, parameters, context) for frame in frames]


def _vector(frame: bytes, parameters: Parameters, context: Any) -> Any:
    expected = f"expected one ciphertext of {SLOTS} slots at scale={parameters.scale:g}"
    # TenSEAL believes the sizes that it reads, and would read past its memory's end for some.
    if not _is_one(frame, parameters):
        raise ProtocolError(f"{expected}, got bytes={len(frame)} of another form")
    try:
        vector = load_tenseal().ckks_vector_from(context, frame)
        ciphertext = vector.ciphertext()[0]
        # Additions alone lead to two polynomials that were never rescaled.
        fits = (
            ciphertext.size() == 2
            and ciphertext.scale == parameters.scale
            and ciphertext.parms_id() == _level(context)
        )
    except REFUSALS as error:
        raise ProtocolError(f"{expected}, got bytes={len(frame)}: {error}") from None
    if not fits:
        raise ProtocolError(f"{expected}, got another")
    return vector


def _level(context: Any) -> Any:
    """What names the moduli of a fresh ciphertext."""
    return context.seal_context().data.first_parms_id()


def _is_one(frame: bytes, parameters: Parameters) -> bool:
    """Whether it has the only form in which TenSEAL writes one full ciphertext.

    That is a protobuf message of a list of sizes (field 1), SEAL's bytes (field 2; their length is a varint
    of three bytes) and the scale (field 3).
    """
    head, tail = b"\x0a\x02\x80\x10\x12", b"\x19" + struct.pack("<d", parameters.scale)
    length = len(frame) - len(head) - 3 - len(tail)
    if not 2**14 <= length < 2**21:
        return False
    varint = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
    return frame.startswith(head + varint) and frame.endswith(tail)
