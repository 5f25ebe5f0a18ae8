"""What two sites keep to themselves: a secret that both can work out, and bytes sealed under it.

Source: X25519 (RFC 7748, section 6.1), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439, section 2.8).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import AggregationError

KEY_BYTES = 32
TAG_BYTES = 16

_NONCE = bytes(12)


class AgreementKey:
    """An X25519 private key, from 32 bytes. Raises AggregationError for another number of them."""

    def __init__(self, private: bytes) -> None:
        if len(private) != KEY_BYTES:
            raise AggregationError(f"expected {KEY_BYTES} bytes, got {len(private)}", rule="key")
        self._key = X25519PrivateKey.from_private_bytes(private)
        self._agreed: dict[bytes, bytes] = {}

    @property
    def public(self) -> bytes:
        """The public key: 32 bytes."""
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return self._key.public_key().public_bytes(*raw)

    def agree(self, public: bytes) -> bytes:
        """The secret shared with the holder of ``public``: 32 bytes, to derive keys from and nothing else.

        It is worked out once, and forgotten with this object. Raises AggregationError for bytes that are no
        key, or a point of low order, whose secret anyone knows (RFC 7748, section 6.1).
        """
        if public in self._agreed:
            return self._agreed[public]
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise AggregationError("not a public key to agree on a secret with", rule="key") from error
        self._agreed[public] = secret
        return secret


def derive(secret: bytes, *parts: bytes) -> bytes:
    """A key of 32 bytes for the one purpose that ``parts`` say, each framed by its length."""
    info = b"confide " + b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return HKDF(hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def seal(key: bytes, content: bytes) -> bytes:
    """Encrypt and authenticate: 16 bytes more than the content. A key seals one content, and no second."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, content, None)


def open_sealed(key: bytes, sealed: bytes, *, sender: str) -> bytes:
    """The content. Raises AggregationError, naming the sender, unless it was sealed under this key."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, None)
    except (InvalidTag, ValueError) as error:
        raise AggregationError(
            f"what {sender} sealed cannot be opened: it is of another round, run or list of sites, or was "
            "changed on its way",
            rule="sealed",
        ) from error
