"""A model answers held-out conversations, for people to read what it says."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.answers import Answer
from tasks.data.examples import Examples
from tasks.data.token_examples import TokenExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.writing import Tokens, write_on

_MORE = 16  # tokens that an answer may have beyond the longest reference


def answer_last(adapted: AdaptedModel, examples: Examples, *, seed: int) -> list[Answer]:
    """What the model says, once the likeliest and once drawn, where each conversation has its last answer.

    Blank examples are left out.
    """
    if not isinstance(examples, TokenExamples) or examples.learned is None:
        return []
    tokenizer: Any = adapted.base.reader.tokenizer
    parts = [_last_turn(examples, index) for index in np.flatnonzero(examples.sizes).tolist()]
    if not parts:
        return []
    prompts, references = zip(*parts, strict=True)
    # What ends a turn in these conversations: not every tokenizer calls it the end of a text.
    ends = {int(reference[-1]) for reference in references} & set(tokenizer.all_special_ids)
    if tokenizer.eos_token_id is not None:
        ends.add(int(tokenizer.eos_token_id))
    most = max(map(len, references)) + _MORE

    def written(drawn_by: int | None) -> list[str]:
        found = write_on(adapted, prompts, most=most, ends=ends, padding=examples.padding, seed=drawn_by)
        return [_text(tokenizer, tokens) for tokens in found]

    return [
        Answer(
            prompt=tokenizer.decode(prompt.tolist()),
            reference=_text(tokenizer, reference),
            greedy=greedy,
            sampled=sampled,
        )
        for prompt, reference, greedy, sampled in zip(
            prompts, references, written(None), written(seed), strict=True
        )
    ]


def _last_turn(examples: TokenExamples, index: int) -> tuple[Tokens, Tokens]:
    """All tokens before an example's last run of learned ones, and that run."""
    one = examples.take(np.array([index]))
    places = np.flatnonzero(np.asarray(one.learned))
    first = places[-1]
    while first - 1 in places:
        first -= 1
    return one.tokens[:first], one.tokens[first : places[-1] + 1]


def _text(tokenizer: Any, tokens: Tokens) -> str:
    said: str = tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    return said.strip()
