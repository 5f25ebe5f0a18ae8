"""Who signs: an Ed25519 key that stays in its owner's home."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.durable import make_private_folder, open_private, sync_folder
from privacy.errors import KeyFileError, SignatureError

_RAW = serialization.Encoding.Raw


class Identity:
    """An Ed25519 key (RFC 8032) and what is derived from it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, secret: bytes) -> Identity:
        """The key that 32 secret bytes make, as ``derive`` gives them."""
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a PEM file (PKCS #8, RFC 5208). Raises KeyFileError if it holds no Ed25519 key."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError as error:
            raise KeyFileError(f"no key at {path}") from error
        except (
            OSError,
            ValueError,
            TypeError,
            UnsupportedAlgorithm,
        ) as error:  # TypeError: it is encrypted
            raise KeyFileError(f"{path} holds no key that can be read: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"expected an Ed25519 key in {path}, got another kind")
        return cls(key)

    @classmethod
    def load_or_create(cls, path: Path, *, flush: bool = True) -> Identity:
        """Read the key, or make it (mode 0600). Of several processes that make it at once, one wins.

        Without ``flush`` a key that is made outlasts a kill, and not a power cut.
        """
        if path.exists():
            return cls.load(path)
        make_private_folder(path.parent, flush=flush)
        identity = cls.generate()
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        try:
            with open(partial, "xb", opener=open_private) as file:
                file.write(identity._pem())
                file.flush()
                if flush:
                    os.fsync(file.fileno())
            os.link(partial, path)  # unlike a rename, it never replaces a key that is there
        except FileExistsError:
            return cls.load(path)
        finally:
            partial.unlink(missing_ok=True)
        if flush:
            sync_folder(path.parent)
        return identity

    @property
    def public(self) -> bytes:
        """The public key: 32 bytes."""
        return self._key.public_key().public_bytes(_RAW, serialization.PublicFormat.Raw)

    def sign(self, purpose: str, content: bytes) -> bytes:
        """Sign content for one purpose: 64 bytes. A signature for one is none for another."""
        return self._key.sign(_framed(purpose, content))

    def derive(self, purpose: str) -> bytes:
        """A secret of 32 bytes that only this key's holder can make (HKDF-SHA256, RFC 5869)."""
        raw = self._key.private_bytes(_RAW, serialization.PrivateFormat.Raw, serialization.NoEncryption())
        return HKDF(hashes.SHA256(), length=32, salt=None, info=f"confide {purpose}".encode()).derive(raw)

    def _pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def verify(public: bytes, purpose: str, content: bytes, signature: bytes) -> None:
    """Check a signature. Raises SignatureError unless ``public`` signed this for this purpose."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _framed(purpose, content))
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(f"the signature does not fit: {purpose}") from error


def _framed(purpose: str, content: bytes) -> bytes:
    return b"confide " + purpose.encode() + b"\0" + content
