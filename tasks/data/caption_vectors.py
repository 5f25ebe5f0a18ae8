"""Captions as vectors of one public length: their words and parts of words, hashed."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

LENGTH = 256  # a byte tells the place
# Letters and digits of any script.
_WORD = re.compile(r"[^\W_]+")


def plain_caption(caption: str) -> str:
    """A caption's words in small letters, one space between them: "" where there is none.

    >>> plain_caption("Arrow-Left (filled)")
    'arrow left filled'
    """
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", caption).casefold()))


def caption_vector(caption: str) -> NDArray[np.float32]:
    """A vector of length 1, float32[256], that is near those of captions with the same words.

    Each word and each three letters in a row, with its beginning and end marked, add 1 or -1 at a place:
    both follow from SHA-256. All parts of a word weigh as much as itself. Source: Weinberger et al. 2009
    (arXiv:0902.2206).
    """
    found = np.zeros(LENGTH)
    for word in plain_caption(caption).split():
        marked = f"<{word}>"
        parts = [marked[place : place + 3] for place in range(len(marked) - 2)]
        for part, weight in [(word, 1.0), *((part, 1 / math.sqrt(len(parts))) for part in parts)]:
            digest = hashlib.sha256(part.encode()).digest()
            found[digest[0]] += weight if digest[1] & 1 else -weight
    norm = float(np.linalg.norm(found))
    return (found / norm if norm else found).astype(np.float32)
