"""Which texts a custodian lets into training: rules on each by itself."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cached_property
from typing import Annotated

from pydantic import Field

from protocol.plain_text import Word
from tasks.data.density_rule import DensityRule
from tasks.task import TaskKeys

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class TextGate(TaskKeys):
    """Words are what spaces part. ``least_letters`` is a share of the characters that are no spaces.

    ``most_repeated`` is the share of the words that may be one and the same. Words and phrases that are
    ``forbidden`` are looked for whole, whatever their case and spacing. ``density`` is judged by a language
    model, which whoever asks for it has to load.
    """

    least_words: Count | None = None
    most_words: Count | None = None
    least_letters: Share | None = None
    most_repeated: Share | None = None
    forbidden: Annotated[tuple[Word, ...], Field(max_length=1000, strict=False)] = ()
    density: DensityRule | None = None

    def fault(self, text: str) -> str | None:
        """Why a text stays out, in a few words that do not quote it; None if it passes."""
        words = text.split()
        if self.least_words is not None and len(words) < self.least_words:
            return f"the gate: fewer than {self.least_words} words"
        if self.most_words is not None and len(words) > self.most_words:
            return f"the gate: more than {self.most_words} words"
        if self.least_letters is not None and _letters(words) < self.least_letters:
            return f"the gate: less than {self.least_letters:g} of it is letters"
        if self.most_repeated is not None and _repeated(words) > self.most_repeated:
            return f"the gate: one word is more than {self.most_repeated:g} of it"
        if self._forbids is not None and self._forbids.search(_plain(text)):
            return "the gate: a forbidden word"
        return None

    @cached_property
    def _forbids(self) -> re.Pattern[str] | None:
        """What finds any of the forbidden words and phrases, made once for all texts."""
        phrases = "|".join(re.escape(_plain(phrase)) for phrase in self.forbidden)
        return re.compile(rf"(?<!\w)(?:{phrases})(?!\w)") if phrases else None


def _letters(words: list[str]) -> float:
    characters = "".join(words)
    return sum(map(str.isalpha, characters)) / max(1, len(characters))


def _repeated(words: list[str]) -> float:
    counts = Counter(word.casefold() for word in words)
    return max(counts.values(), default=0) / max(1, len(words))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
