"""What the ledger knows a text by, in whichever task it stands."""

from __future__ import annotations

import hashlib
import unicodedata


def digest_text(text: str) -> bytes:
    """SHA-256 of a text, 32 bytes, whatever its case, its spacing and Unicode's ways of writing (NFKC).

    >>> digest_text("A  scratch") == digest_text(" a scratch")
    True
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).digest()
