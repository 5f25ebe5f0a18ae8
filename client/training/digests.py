"""What an example is known by in the ledger."""

from __future__ import annotations

import hashlib
import unicodedata


def example_digest(text: str) -> bytes:
    """What an example is known by in the ledger: SHA-256 of its text, 32 bytes.

    Labels do not count: the same text under another label, column order or data set is the same example.
    Neither do case, spacing and Unicode's ways of writing one character (NFKC).
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).digest()
