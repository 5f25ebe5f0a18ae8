"""Keys: one a home, one purpose a signature."""

from __future__ import annotations

import hmac
import multiprocessing
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy import identity as module
from privacy.errors import KeyFileError, SignatureError
from privacy.identity import Identity, verify

IDENTITY = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(
    secret: str, public: str, message: str, signature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways, under the purpose's frame; and with the frame none of them fits."""
    identity = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    content, expected = bytes.fromhex(message), bytes.fromhex(signature)
    assert identity.public.hex() == public
    with pytest.raises(SignatureError):
        verify(identity.public, "", content, expected)
    monkeypatch.setattr(module, "_framed", lambda _purpose, content: content)
    assert identity.sign("", content) == expected
    verify(bytes.fromhex(public), "", content, expected)
    for place in range(64):
        wrong = bytearray(expected)
        wrong[place] ^= 1
        with pytest.raises(SignatureError):
            verify(identity.public, "", content, bytes(wrong))


@pytest.mark.parametrize(
    ("public", "purpose", "content", "cut"),
    [
        (OTHER.public, "receipt", b"content", 64),
        (IDENTITY.public, "ledger entry", b"content", 64),
        (IDENTITY.public, "receip", b"tcontent", 64),
        (IDENTITY.public, "receipt\0", b"content", 64),
        (IDENTITY.public, "receipt", b"contents", 64),
        (IDENTITY.public, "receipt", b"", 64),
        (IDENTITY.public, "receipt", b"content", 63),
        (IDENTITY.public, "receipt", b"content", 0),
        (IDENTITY.public[:31], "receipt", b"content", 64),
        (b"", "receipt", b"content", 64),
    ],
)
def test_a_signature_fits_one_key_one_purpose_and_one_content(
    public: bytes, purpose: str, content: bytes, cut: int
) -> None:
    signature = IDENTITY.sign("receipt", b"content")
    verify(IDENTITY.public, "receipt", b"content", signature)
    with pytest.raises(SignatureError, match="does not fit"):
        verify(public, purpose, content, signature[:cut])


def test_a_signature_with_more_behind_it_is_none() -> None:
    with pytest.raises(SignatureError):
        verify(IDENTITY.public, "receipt", b"", IDENTITY.sign("receipt", b"") + b"\0")


def test_secrets_are_rfc_5869s_and_one_a_purpose() -> None:
    """HKDF-SHA256 without a salt, written out: extract under zeros, then one block."""
    key = hmac.digest(bytes(32), bytes(range(32)), "sha256")
    for purpose in ("example digests", "another"):
        block = hmac.digest(key, b"confide " + purpose.encode() + b"\x01", "sha256")
        assert IDENTITY.derive(purpose) == block
    assert IDENTITY.derive("a") != IDENTITY.derive("b")
    assert IDENTITY.derive("a") != OTHER.derive("a")


def _pem(key: object, encryption: object = None) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "can be read"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "can be read"),
        (_pem(Ed25519PrivateKey.generate())[:60], "can be read"),
        (_pem(Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"x")), "can be read"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), "another kind"),
        (_pem(x25519.X25519PrivateKey.generate()), "another kind"),
    ],
    ids=["empty", "no-key", "cut-off", "encrypted", "p-256", "x25519"],
)
def test_what_is_no_key_is_refused_and_left_there(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    for load in (Identity.load, Identity.load_or_create):
        with pytest.raises(KeyFileError, match=named):
            load(path)
    assert path.read_bytes() == content


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no key at"):
        Identity.load(tmp_path / "identity.key")
    with pytest.raises(KeyFileError, match="can be read"):
        Identity.load(tmp_path)


def _make(path: Path, start: object, told: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    told.put(Identity.load_or_create(path).public)  # type: ignore[attr-defined]


def test_of_four_processes_one_makes_the_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path, start, told = tmp_path / "home" / "identity.key", context.Barrier(4), context.Queue()
    makers = [context.Process(target=_make, args=(path, start, told)) for _ in range(4)]
    for maker in makers:
        maker.start()
    keys = {told.get(timeout=300) for _ in makers}
    for maker in makers:
        maker.join(timeout=300)
    assert keys == {Identity.load(path).public}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [left.name for left in path.parent.iterdir()] == ["identity.key"]


def test_a_key_stays_what_it_was(tmp_path: Path) -> None:
    made = Identity.load_or_create(tmp_path / "a" / "identity.key")
    assert Identity.load_or_create(tmp_path / "a" / "identity.key").public == made.public
    assert Identity.load_or_create(tmp_path / "b" / "identity.key").public != made.public
