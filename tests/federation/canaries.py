"""Strings that must not be found, in every form that they might hide in, and what looks for them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import unicodedata
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Needles = dict[str, bytes]
WINDOW = 32  # bytes: no two numbers agree in so many by chance


def of_text(text: str) -> Needles:
    """A text as it might stand in a file: several alphabets, each in several encodings."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    needles: Needles = {}
    for spelling in {text, text.lower(), text.upper(), plain, plain.lower()}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le"):
            needles |= of_bytes(f"{spelling} {encoding}", spelling.encode(encoding))
        needles[f"{spelling} JSON"] = json.dumps(spelling)[1:-1].encode()
        needles[f"{spelling} URL"] = urllib.parse.quote(spelling).encode()
    return needles


def of_bytes(name: str, content: bytes) -> Needles:
    """Bytes, raw and as people print them."""
    needles = {name: content, f"{name} hex": content.hex().encode()}
    needles[f"{name} HEX"] = content.hex().upper().encode()
    for shift in range(3):  # where in a group of three it may begin
        whole = base64.b64encode(bytes(shift) + content)
        sure = whole[-(-shift * 8 // 6) : len(whole) // 4 * 4 - 4]
        if len(sure) >= 12:  # less is found by chance
            needles[f"{name} base64+{shift}"] = sure
            needles[f"{name} base64url+{shift}"] = sure.translate(bytes.maketrans(b"+/", b"-_"))
    return needles


def of_tokens(name: str, tokens: Sequence[int]) -> Needles:
    """Token numbers in a row, as arrays and as lists."""
    needles: Needles = {}
    for kind in ("<i8", "<i4", "<u2", ">i8", ">i4"):
        needles |= of_bytes(f"{name} tokens {kind}", np.array(tokens, kind).tobytes())
    for separator in (", ", ",", " "):
        needles[f"{name} tokens {separator!r}"] = separator.join(map(str, tokens)).encode()
    return needles


def of_numbers(name: str, content: bytes, *, windows: int = 8) -> Needles:
    """Some windows of an array of float32; none of those that are mostly zeros."""
    found: Needles = {}
    for start in np.linspace(0, len(content) - WINDOW, 8 * windows, dtype=np.int64) // 4 * 4:
        window = content[start : start + WINDOW]
        if len(set(window)) > WINDOW // 2 and len(found) < 9 * windows:
            found |= of_bytes(f"{name} at {start}", window)
    return found


def of_key(path: Path) -> Needles:
    """The private part of a key file, and each line of its body."""
    content = path.read_bytes()
    load = serialization.load_ssh_private_key if b"OPENSSH" in content else _load_pem
    key = load(content, password=None)
    if isinstance(key, Ed25519PrivateKey):
        private = key.private_bytes_raw()
    elif isinstance(key, EllipticCurvePrivateKey):
        private = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
    else:
        raise TypeError(f"{path}: {type(key)}")
    needles = of_bytes(f"{path.name}", private)
    # A body's first line names the kind of key, and the public key, before anything secret.
    for number, line in enumerate(content.splitlines()[1:-1]):
        if len(line) > 40 and (number or len(content.splitlines()) == 3):
            needles[f"{path.name} line {number}"] = line
    return needles


def _load_pem(content: bytes, password: None) -> object:
    return serialization.load_pem_private_key(content, password)


def layers(content: bytes) -> Iterator[bytes]:
    """Content, and what is packed in it."""
    yield content
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from layers(archive.read(name))
    elif content[:2] == b"\x1f\x8b":
        with suppress(OSError, EOFError, zlib.error):
            yield from layers(gzip.decompress(content))


def found_in(content: bytes, needles: Mapping[str, bytes]) -> set[str]:
    """The names of the needles in content."""
    return {
        name for layer in layers(content) for name, needle in needles.items() if needle and needle in layer
    }


def search(files: Mapping[str, bytes], needles: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Which files hold which needles; only those that hold one."""
    found = {name: found_in(content, needles) for name, content in files.items()}
    return {name: hits for name, hits in found.items() if hits}


def files_under(folder: Path) -> dict[str, bytes]:
    """Every regular file, by its path in the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with suppress(FileNotFoundError):  # a file that something running just took away
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found
