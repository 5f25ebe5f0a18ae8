"""Key files: made once, readable by their owner alone, and never written over."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privacy.durable import PRIVATE_FILE, sync_folder
from privacy.errors import KeyFileError


def write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that is not there yet, whole and for good. Raises KeyFileError if it is there."""
    partial = _partial(path)
    try:
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike a rename, it never replaces what is there
    except FileExistsError as error:
        raise KeyFileError(f"{path} is there and is never written over: move it away first") from error
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def load_or_create_tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read an EC key for TLS (PEM, PKCS #8), or make one. Raises KeyFileError if it is another kind.

    P-256, because OpenSSL, nginx and BoringSSL (in gRPC) all take it without being asked to.
    """
    _partial(path).unlink(missing_ok=True)  # a kill may have left a second name of the key
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_new(path, pem, mode=PRIVATE_FILE)
    return load_tls_key(path)


def load_tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read an EC key for TLS. Raises KeyFileError if it is missing or another kind."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise KeyFileError(f"no key at {path}") from error
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise KeyFileError(f"{path} holds no key that can be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"expected an EC key in {path}, got another kind")
    return key


def load_or_create_node_key(path: Path) -> str:
    """The public half of a Flower node's key, which is made if it is not there.

    It is what ``ssh-keygen -t ecdsa -b 384`` writes: OpenSSH's private format, NIST P-384.
    """
    _partial(path).unlink(missing_ok=True)
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        content = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        write_new(path, content, mode=PRIVATE_FILE)
    return read_node_key(path)


def read_node_key(path: Path) -> str:
    """The public half of a node's key, as one line of two words. Raises KeyFileError if it is none."""
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} holds no node key that can be read: {error}") from error
    public = key.public_key()
    text = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return parse_node_key(text.decode())


def parse_node_key(text: str) -> str:
    """A node's public key without its comment: ``ecdsa-sha2-nistp384 AAAA…``.

    Raises KeyFileError unless it is one on P-384.
    """
    words = text.split()
    try:
        public = serialization.load_ssh_public_key(" ".join(words[:2]).encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"expected an OpenSSH public key, got {text[:60]!r}: {error}") from error
    if not (isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP384R1)):
        raise KeyFileError(
            f"expected a key that starts with ecdsa-sha2-nistp384, got {words[0]}: `confide site keys` "
            "makes one"
        )
    return " ".join(words[:2])
