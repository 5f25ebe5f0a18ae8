"""Text that others wrote and people read: what may be in it, and how whatever is in it is shown.

A label or a path ends up on terminals and in logs, ledgers and reports of other organisations. There an
escape sequence is obeyed, U+202E turns a line around, and U+200B makes two names look the same. So none of
these is in a job. Whatever else is shown is escaped first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

LONGEST_LABEL, MOST_LABELS = 500, 10_000
LONGEST_NAME = 40  # of a site
LONGEST_TEXT = 4096  # of any value that people write
LONGEST_REASON = 500  # of a refusal, in characters
_LONGEST_QUOTE = 200  # of a value, in a message about it
_MOST_QUOTED = 5

# Control, format, surrogate and private characters, and the separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# Letters and marks that show nothing, whatever their category says.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_VIRAMA = 9  # a combining class
_ODD = re.compile(r"[^ -~]")


def check_plain(text: str) -> str:
    """The text, if all that is in it can be seen. Raises pydantic's error naming what cannot.

    Joiners and variation selectors are allowed where they shape what is beside them: Persian and Indic
    words, and emoji, cannot be written without.
    """
    found = sorted({text[place] for place in _hidden_places(text)})
    if found:
        named = ", ".join(f"U+{ord(letter):04X}" for letter in found[:5])
        raise PydanticCustomError(
            "plain_text",
            "expected text without control, format or invisible characters (here {named})",
            {"named": named},
        )
    return text


def is_plain(text: str) -> bool:
    """Whether all that is in a text can be seen."""
    return not any(True for _ in _hidden_places(text))


def escaped(text: str, *, lines: bool = False) -> str:
    r"""A text with what cannot be seen, or would be acted on, as escapes; ``lines`` stay lines if asked.

    >>> print(escaped("red \x1b[31m\nturned \u202eback"))
    red \x1b[31m\nturned \u202eback
    """
    parts, start = [], 0
    for place in _hidden_places(text):
        if lines and text[place] == "\n":
            continue
        parts += [text[start:place], text[place].encode("unicode_escape").decode()]
        start = place + 1
    return "".join([*parts, text[start:]])


def cut(text: str, most: int) -> str:
    """A text of at most ``most`` characters, and how many there were if some are left out."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def quoted(value: object) -> str:
    """What somebody wrote, as Python writes it down; short, and nothing in it that is obeyed."""
    return escaped(cut(repr(value), _LONGEST_QUOTE))


def quoted_some(names: Sequence[str]) -> str:
    """The first few of what others named, each ``quoted``, and how many more there are."""
    return some([quoted(name) for name in names])


def some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - _MOST_QUOTED
    return ", ".join(names[:_MOST_QUOTED]) + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """What an error says, without its details and its full stop; what it is where that says little.

    >>> first_line(KeyError("gelu"))
    "KeyError: 'gelu'"
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    # The message of these is what was looked for alone.
    return (f"{type(error).__name__}: {said}" if isinstance(error, KeyError) else said).rstrip(".")


def told(text: str) -> str:
    """A refusal's reason as it may be kept and passed on: short, and nothing in it that is obeyed."""
    # Cut first: what is escaped takes up to ten times the room, and a moment.
    return cut(escaped(cut(text, LONGEST_REASON), lines=True), LONGEST_REASON + 40)


def _hidden_places(text: str) -> list[int]:
    return [match.start() for match in _ODD.finditer(text) if _is_hidden(text, match.start())]


def _is_hidden(text: str, place: int) -> bool:
    letter = text[place]
    if letter in (_NON_JOINER, _JOINER):
        return not _joins(text, place)
    if _selects(letter):
        return place == 0 or not _is_visible(text[place - 1])
    return not _is_visible(letter)


def _joins(text: str, place: int) -> bool:
    """Whether a joiner does something where it stands (after RFC 5892, appendices A.1 and A.2)."""
    before, after = text[:place][-2:], text[place + 1 : place + 2]
    if before and _selects(before[-1]):
        before = before[:-1]
    if before and unicodedata.combining(before[-1]) == _VIRAMA:
        return True
    return all(
        side and _is_visible(side) and not side.isascii() and not side.isspace()
        for side in (before[-1:], after)
    )


def _selects(letter: str) -> bool:
    """Whether it is a variation selector, as those that make a sign an emoji."""
    return "\ufe00" <= letter <= "\ufe0f" or "\U000e0100" <= letter <= "\U000e01ef"


def _is_visible(letter: str) -> bool:
    """Whether a letter shows by itself, or is a space."""
    category = unicodedata.category(letter)
    if category == "Cn":
        # Emoji and scripts that this Python does not know yet are up there, and nothing else that shows.
        return "\U00010000" <= letter < "\U000e0000"
    return not (category in _HIDDEN or letter in _BLANK or _selects(letter))


# What people write in a job, a site.toml or a federation.toml.
Word = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(check_plain)]
Place = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(check_plain)]
Label = Annotated[str, Field(max_length=LONGEST_LABEL), AfterValidator(check_plain)]
