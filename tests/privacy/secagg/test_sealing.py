"""Agreed secrets, derived keys and seals: the RFCs' vectors both ways, and what is refused."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import AggregationError
from privacy.secagg import sealing
from privacy.secagg.sealing import TAG_BYTES, AgreementKey, PairKeys, derive, open_sealed, seal

# RFC 7748, section 6.1: private and public keys of two, and what they share.
ALICE = (
    "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
    "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
)
BOB = (
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
)
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# RFC 5869, appendices A.1 and A.3: input, salt, info, output.
RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        "0b" * 22,
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]

# RFC 8439, section 2.8.2.
SEAL_KEY = bytes(range(0x80, 0xA0))
SEAL_NONCE = bytes.fromhex("070000004041424344454647")
SEAL_DATA = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
PLAIN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
SEALED = bytes.fromhex(
    "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
    "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
    "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
)

# Points of order 1, 2, 4 and 8, and what is equal to them modulo the prime (cr.yp.to/ecdh.html#validate).
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), *LOW_ORDER])
def test_what_is_no_key_or_a_weak_one_is_refused(public: bytes) -> None:
    with pytest.raises(AggregationError, match="not a public key") as refused:
        AgreementKey(bytes.fromhex(ALICE[0])).agree(public)
    assert refused.value.rule == "key"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_private_key_has_32_bytes(size: int) -> None:
    with pytest.raises(AggregationError, match=f"got {size}") as refused:
        AgreementKey(bytes(size))
    assert refused.value.rule == "key"


def test_agreement_is_that_of_rfc_7748() -> None:
    for (private, public), (_, other) in ((ALICE, BOB), (BOB, ALICE)):
        key = AgreementKey(bytes.fromhex(private))
        assert key.public.hex() == public
        assert key.agree(bytes.fromhex(other)).hex() == SHARED


def test_what_was_agreed_on_is_not_taken_for_another_key() -> None:
    alice, bob = (AgreementKey(bytes.fromhex(private)) for private, _ in (ALICE, BOB))
    first = alice.agree(bob.public)
    assert alice.agree(alice.public) != first
    assert alice.agree(bob.public) == first == bob.agree(alice.public)
    for _ in range(2):
        with pytest.raises(AggregationError):
            alice.agree(bytes(32))


def hkdf(secret: bytes, *, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869, sections 2.2 and 2.3, written out."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    output = block = b""
    while len(output) < size:
        block = hmac.digest(key, block + info + bytes([len(output) // 32 + 1]), "sha256")
        output += block
    return output[:size]


@pytest.mark.parametrize(("secret", "salt", "info", "output"), RFC_5869)
def test_the_derivation_written_out_is_rfc_5869s(secret: str, salt: str, info: str, output: str) -> None:
    found = hkdf(bytes.fromhex(secret), salt=bytes.fromhex(salt), info=bytes.fromhex(info), size=42)
    assert found.hex() == output


@settings(max_examples=40, deadline=None)
@given(secret=st.binary(min_size=1, max_size=64), parts=st.lists(st.binary(max_size=9), max_size=4))
def test_derived_keys_are_rfc_5869s_with_each_part_framed(secret: bytes, parts: list[bytes]) -> None:
    framed = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    assert derive(secret, *parts) == hkdf(secret, salt=b"", info=b"confide " + framed, size=32)


def test_no_two_purposes_share_a_key() -> None:
    """Frames: neither how parts are cut nor how many there are is lost."""
    purposes = [(), (b"",), (b"", b""), (b"ab",), (b"a", b"b"), (b"", b"ab"), (b"ab", b""), (b"b", b"a")]
    assert len({derive(b"secret", *parts) for parts in purposes}) == len(purposes)
    assert derive(b"secret", b"a") != derive(b"Secret", b"a")


def test_seals_are_those_of_rfc_8439(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the vector's nonce and additional data, of which ours are zero and none; both ways."""

    class WithData:
        def __init__(self, key: bytes) -> None:
            self._cipher = ChaCha20Poly1305(key)

        def encrypt(self, nonce: bytes, data: bytes, _none: None) -> bytes:
            return self._cipher.encrypt(nonce, data, SEAL_DATA)

        def decrypt(self, nonce: bytes, data: bytes, _none: None) -> bytes:
            return self._cipher.decrypt(nonce, data, SEAL_DATA)

    assert seal(SEAL_KEY, PLAIN) != SEALED
    monkeypatch.setattr(sealing, "_NONCE", SEAL_NONCE)
    monkeypatch.setattr(sealing, "ChaCha20Poly1305", WithData)
    assert seal(SEAL_KEY, PLAIN) == SEALED
    assert open_sealed(SEAL_KEY, SEALED, sender="a") == PLAIN


def test_what_is_sealed_opens_and_nothing_else_does() -> None:
    """Every bit of it counts, its length, and the key."""
    key, content = bytes(range(32)), b"two shares"
    sealed = seal(key, content)
    assert len(sealed) == len(content) + TAG_BYTES
    assert open_sealed(key, sealed, sender="a") == content
    flipped = [
        sealed[:place] + bytes([sealed[place] ^ 1 << bit]) + sealed[place + 1 :]
        for place in range(len(sealed))
        for bit in range(8)
    ]
    for wrong in (*flipped, b"", sealed[:-1], sealed + b"\0", bytes(len(sealed)), sealed[: TAG_BYTES - 1]):
        with pytest.raises(AggregationError, match="what site-03 sealed") as refused:
            open_sealed(key, wrong, sender="site-03")
        assert refused.value.rule == "sealed"
    with pytest.raises(AggregationError):
        open_sealed(bytes(32), sealed, sender="a")


def test_what_one_end_derived_the_other_takes_once() -> None:
    """Of what is the same at both ends; for another purpose, or another pair, it is derived anew."""
    pairs = PairKeys()
    alice, bob = (AgreementKey(bytes.fromhex(private), pairs=pairs) for private, _ in (ALICE, BOB))
    eve = alice.beside(bytes(range(32)))
    made: list[bytes] = []

    def key(own: AgreementKey, other: AgreementKey, *about: bytes) -> bytes:
        def make() -> bytes:
            made.append(about[0])
            return derive(own.agree(other.public), *about)

        return own.once(other.public, make, *about)

    first = key(alice, bob, b"a", b"b")
    assert key(alice, eve, b"a", b"b") != first != key(alice, bob, b"ab")
    assert len(made) == 3
    assert key(bob, alice, b"a", b"b") == first == derive(bytes.fromhex(SHARED), b"a", b"b")
    assert key(eve, alice, b"a", b"b") == derive(eve.agree(alice.public), b"a", b"b")
    assert len(made) == 3
    assert key(bob, alice, b"a", b"b") == first  # what was taken waits no longer
    assert len(made) == 4


def test_keys_that_nobody_comes_for_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_MOST_WAITING", 3)
    pairs, pair = PairKeys(), frozenset((b"a", b"b"))
    for number in range(5):
        pairs.take(pair, (bytes([number]),), lambda: b"old")
    found = [pairs.take(pair, (bytes([number]),), lambda: b"new") for number in (2, 3, 4, 0)]
    assert found == [b"old", b"old", b"old", b"new"]


def test_sites_that_share_nothing_derive_each_key_themselves() -> None:
    made: list[int] = []
    for private, _ in (ALICE, BOB):
        AgreementKey(bytes.fromhex(private)).once(bytes(32), lambda: bytes([made.append(1) or 0]), b"a")
    assert len(made) == 2
