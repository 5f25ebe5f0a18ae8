"""Chat messages: who says what, read from any of the forms that data sets write them in."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from tasks.data.rows import present

# (role, text) a message. Tuples: rows are compared, sorted and counted.
Conversation: TypeAlias = tuple[tuple[str, str], ...]

ASSISTANT, USER = "assistant", "user"
NO_MESSAGES = "no list of chat messages, each with a role and a text"
# What ShareGPT calls the roles, and others after it.
_ROLES = {"human": USER, "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT}


def read_conversation(cell: str | None, *, role: str | None = None) -> Conversation | None:
    """A cell as messages: a JSON list of them, or a text, which is one message of ``role`` if that is set.

    A message is ``{"role": …, "content": …}``, or ShareGPT's ``{"from": …, "value": …}``; what else it has
    is left out. Its text may be cut into parts of the type "text". None for anything else.

    >>> read_conversation('[{"role": "user", "content": "Hi"}]')
    (('user', 'Hi'),)
    >>> read_conversation("Hi", role="user")
    (('user', 'Hi'),)
    """
    told = present(cell)
    if told is None:
        return None
    listed = _as_list(told)
    if listed is None:
        return ((role, told),) if role is not None else None
    found = [_message(item) for item in listed]
    return tuple(message for message in found if message is not None) if all(found) else None


def said_in(parts: Iterable[Conversation]) -> Iterator[str]:
    """The texts of all messages of conversations, one after another.

    >>> list(said_in(((("user", "Hi"),), (("assistant", "Hello"),))))
    ['Hi', 'Hello']
    """
    return (text for part in parts for _role, text in part)


def digest_of(parts: Iterable[Conversation]) -> bytes:
    """SHA-256 of conversations one after another, 32 bytes, however their texts are written.

    Case, spacing and Unicode's ways of writing one character (NFKC) do not count, as for a text; nor does
    where one part ends and the next begins.
    """
    digest = hashlib.sha256()
    for role, text in (message for part in parts for message in part):
        for word in (role, " ".join(unicodedata.normalize("NFKC", text).casefold().split())):
            content = word.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "big") + content)
    return digest.digest()


def _as_list(text: str) -> list[Any] | None:
    """A JSON list of objects; None for what is none, such as a text that begins with a bracket."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    listed = isinstance(found, list) and found and all(isinstance(item, dict) for item in found)
    return found if listed else None


def _message(item: Mapping[str, Any]) -> tuple[str, str] | None:
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if isinstance(content, list):
        parts = [part.get("text") for part in content if _is_text(part)]
        content = "".join(map(str, parts)) if parts and len(parts) == len(content) else None
    if not isinstance(role, str) or not role or not isinstance(content, str) or "\0" in content:
        return None
    return _ROLES.get(role, role), content


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
