"""What two sites keep to themselves: a secret that both can work out, and bytes sealed under it.

Source: X25519 (RFC 7748, section 6.1), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439, section 2.8).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import AggregationError

KEY_BYTES = 32
TAG_BYTES = 16

_NONCE = bytes(12)
_MOST_WAITING = 1 << 16  # keys: all of 250 sites that all mask with one another


class PairKeys:
    """Keys that one of two sites in this process has derived, until the other one asks for them.

    For simulated sites: what both ends would each work out to the same is worked out once. Keys that nobody
    comes for make room, the oldest first.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[frozenset[bytes], tuple[bytes, ...]], bytes] = {}

    def take(self, pair: frozenset[bytes], about: tuple[bytes, ...], make: Callable[[], bytes]) -> bytes:
        """The key that waits for the other holder of two public keys; else ``make``'s, which waits."""
        found = self._waiting.pop((pair, about), None)
        if found is None:
            found = self._waiting[pair, about] = make()
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
        return found


class AgreementKey:
    """An X25519 private key, from 32 bytes. Raises AggregationError for another number of them.

    ``pairs`` are those of the process, where its sites share what they derive.
    """

    def __init__(self, private: bytes, *, pairs: PairKeys | None = None) -> None:
        if len(private) != KEY_BYTES:
            raise AggregationError(f"expected {KEY_BYTES} bytes, got {len(private)}", rule="key")
        self._key = X25519PrivateKey.from_private_bytes(private)
        self._agreed: dict[bytes, bytes] = {}
        self._pairs = pairs

    def beside(self, private: bytes) -> AgreementKey:
        """Another key of the same site."""
        return AgreementKey(private, pairs=self._pairs)

    @cached_property
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

    def once(self, public: bytes, make: Callable[[], bytes], *about: bytes) -> bytes:
        """The key that ``make`` derives from what is agreed on with the holder of ``public``.

        Where that one has derived it in this process already, it is taken from there. ``about`` is all that
        it is derived from beside the secret.
        """
        if self._pairs is None:
            return make()
        return self._pairs.take(frozenset((self.public, public)), about, make)


def derive(secret: bytes, *parts: bytes) -> bytes:
    """A key of 32 bytes for the one purpose that ``parts`` say, each framed by its length."""
    info = b"confide " + b"".join([len(part).to_bytes(4, "little") + part for part in parts])
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
