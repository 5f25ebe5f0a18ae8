"""From chat messages to tokens, by the tokenizer's own template, and which of them are learned.

A template says nothing of which tokens are the assistant's. But what it writes for the messages before an
answer, with the beginning of the answer if it is asked for one, is what a model is given to go on from; so
what the whole conversation has after that is what the model should say. The end of a turn is where the
conversation up to it stops agreeing with the whole one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ModelError
from tasks.data.chat import ASSISTANT, Conversation
from tasks.data.examples import offsets_of
from tasks.data.token_examples import TokenExamples
from tasks.data.tokenization import FAILED, OUT_OF_RANGE, TOO_SHORT, Reader
from tasks.task import Encoded

NO_TEMPLATE = "the chat template fails on the messages"
NO_ANSWER = "no answer of the assistant that the chat template keeps as it is"
CUT_OFF = "no token of an answer within max_length"
NO_ROOM = "a prompt that leaves no room for an answer within max_length"
# Llama's templates write the day's date otherwise, and then a text would have other tokens tomorrow.
_SETTINGS = {"date_string": "26 Jul 2024"}


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A conversation's ``tokens``, int32[t], and which are ``learned``, bool[t]; ``why`` it is blank.

    ``branches``, int8[t], are those of a text with two endings: see ``TokenExamples``.
    """

    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]
    why: str | None = None
    branches: NDArray[np.int8] | None = None


def check_chat(tokenizer: Any, *, source: str) -> None:
    """Raises ModelError for a tokenizer without a chat template, or that does not tell where tokens are."""
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"model.source={source!r}: its tokenizer has no chat template, so how messages become a text "
            "is not known: choose a chat model, whose name often ends in Instruct"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"model.source={source!r}: its tokenizer does not tell which characters a token is of, so "
            "which tokens are an answer is not known: choose a model with a tokenizer.json"
        )


def encode_answers(
    reader: Reader, conversations: Sequence[tuple[Conversation, Conversation] | None]
) -> list[Marked | None]:
    """Each (prompt, answers) as tokens of which those of the answers are learned; None stays None.

    What one holds decides about that one alone, and nothing that it holds raises an error.
    """
    return [None if pair is None else mark_answers(reader, *pair) for pair in conversations]


def mark_answers(reader: Reader, prompt: Conversation, answers: Conversation) -> Marked:
    """One conversation, cut to what a reader takes; a blank one says why, and has no tokens."""
    try:
        text, spans = _lay_out(reader.tokenizer, prompt, answers)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:  # a template raises whatever it likes, and what Rust panics with is no Exception
        return _blank(NO_TEMPLATE)
    if not spans:
        return _blank(NO_ANSWER)
    try:
        # The template has written what begins a text: the tokenizer must not, a second time.
        found = reader.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
        )
        tokens = np.asarray(found["input_ids"], np.int64).reshape(-1)
        places = np.asarray(found["offset_mapping"], np.int64).reshape(len(tokens), 2)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:
        return _blank(FAILED)
    learned = np.zeros(len(tokens), bool)
    for span in spans:
        learned |= _within(places, span, text)
    return _judged(tokens[: reader.max_length], learned[: reader.max_length], reader)


def encode_prompt(reader: Reader, prompt: Conversation) -> Marked:
    """What a model goes on from, then the places of its answers; a blank one says why, and has no tokens.

    So many ``endings`` of ``max_answer`` places follow, all of them learned and filled with padding.
    """
    messages = [{"role": role, "content": text} for role, text in prompt]
    try:
        text = reader.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **_SETTINGS
        )
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:
        return _blank(NO_TEMPLATE)
    try:
        found = reader.tokenizer(text, add_special_tokens=False, return_attention_mask=False)
        tokens = np.asarray(found["input_ids"], np.int64).reshape(-1)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:
        return _blank(FAILED)
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < min(reader.tokens, 2**31)):
        return _blank(OUT_OF_RANGE)
    if len(tokens) < reader.least:
        return _blank(TOO_SHORT)
    room = reader.max_answer or 0
    if len(tokens) > reader.max_length - room:
        return _blank(NO_ROOM)
    places = np.full(room * reader.endings, reader.padding)
    return Marked(
        tokens=np.concatenate([tokens, places]).astype(np.int32),
        learned=np.arange(len(tokens) + len(places)) >= len(tokens),
        branches=np.repeat(np.arange(reader.endings + 1), [len(tokens), *[room] * reader.endings]).astype(
            np.int8
        ),
    )


def turn_ends(reader: Reader) -> tuple[int, ...]:
    """The tokens that end an assistant's turn, as the template writes it, or a text."""
    tokenizer = reader.tokenizer
    found = mark_answers(replace(reader, max_answer=None), (("user", "a"),), ((ASSISTANT, "a"),))
    last = set(found.tokens[found.learned][-1:].tolist()) & set(tokenizer.all_special_ids)
    if tokenizer.eos_token_id is not None:
        last.add(int(tokenizer.eos_token_id))
    return tuple(sorted(last))


def template_length(reader: Reader) -> int:
    """How many tokens a question and an answer have that say nothing; 0 where no template writes them."""
    found = mark_answers(replace(reader, max_answer=None), (("user", ""),), ((ASSISTANT, ""),))
    return len(found.tokens)


def joined(found: Sequence[Marked | None], *, padding: int) -> TokenExamples:
    """As examples, of which None and blank ones have no tokens. All others have branches, or none has."""
    kept = [one for one in found if one is not None]
    branches = [one.branches for one in kept if one.branches is not None]
    return TokenExamples(
        tokens=np.concatenate([np.zeros(0, np.int32), *(one.tokens for one in kept)]),
        offsets=offsets_of(np.array([0 if one is None else len(one.tokens) for one in found], np.int64)),
        labels=None,
        padding=padding,
        learned=np.concatenate([np.zeros(0, bool), *(one.learned for one in kept)]),
        branches=np.concatenate(branches) if branches else None,
    )


def encoded(examples: Any, reasons: Sequence[str | None]) -> Encoded:
    """Examples with why those that are blank are so, a reason an example or None."""
    why: dict[str, list[int]] = {}
    for place, reason in enumerate(reasons):
        if reason is not None:
            why.setdefault(reason, []).append(place)
    return Encoded(
        examples=examples, blank=MappingProxyType({reason: tuple(rows) for reason, rows in why.items()})
    )


def _lay_out(
    tokenizer: Any, prompt: Conversation, answers: Conversation
) -> tuple[str, list[tuple[int, int]]]:
    """The whole conversation as text, and from where to where it is an answer, in characters."""
    messages = [{"role": role, "content": text} for role, text in (*prompt, *answers)]

    def written(count: int, *, begun: bool = False) -> str:
        said: str = tokenizer.apply_chat_template(
            messages[:count], tokenize=False, add_generation_prompt=begun, **_SETTINGS
        )
        return said

    whole = written(len(messages))
    return whole, list(_spans(whole, messages, written, since=len(prompt)))


def _spans(whole: str, messages: Any, written: Any, *, since: int) -> Iterator[tuple[int, int]]:
    for place in range(since, len(messages)):
        if messages[place]["role"] != ASSISTANT:
            continue
        asked = written(place, begun=True)
        start = _agreeing(asked, whole)
        # Some templates begin an answer with more than a finished one has, such as a place to think.
        if start < len(asked) and start < len(written(place)):
            continue
        end = _agreeing(written(place + 1), whole)
        if end > start:
            yield start, end


def _agreeing(first: str, second: str) -> int:
    """How many characters two texts begin with in common."""
    if second.startswith(first):  # nearly always
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _within(places: NDArray[np.int64], span: tuple[int, int], text: str) -> NDArray[np.bool_]:
    """The tokens that lie wholly in a span, bool[t], but for blanks at its end.

    What follows the token that ends a turn is the template's, and no model is asked for it.
    """
    begins, ends = places[:, 0], places[:, 1]
    inside = (begins >= span[0]) & (ends <= span[1]) & (begins < span[1])
    for place in np.flatnonzero(inside)[::-1]:
        if text[begins[place] : ends[place]].strip():
            break
        inside[place] = False
    return inside


def _judged(tokens: NDArray[np.int64], learned: NDArray[np.bool_], reader: Reader) -> Marked:
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < min(reader.tokens, 2**31)):
        return _blank(OUT_OF_RANGE)
    if len(tokens) < reader.least:
        return _blank(TOO_SHORT)
    learned[0] = False  # nothing comes before it that could tell it
    if not learned.any():
        return _blank(CUT_OFF)
    if reader.max_answer is not None:
        learned[np.flatnonzero(learned)[reader.max_answer :]] = False
    return Marked(tokens=tokens.astype(np.int32), learned=learned)


def _blank(why: str) -> Marked:
    return Marked(tokens=np.zeros(0, np.int32), learned=np.zeros(0, bool), why=why)
