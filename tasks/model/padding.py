"""Padding: one token that fills texts up, the same for model and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from privacy.errors import ModelError
from tasks.model.model_limits import text_config


def choose_padding(tokenizer: Any, model: Any, *, asked: str | None, tokens: int) -> int:
    """The token that texts are filled up with, of those that a model of so many ``tokens`` knows.

    The one that is ``asked`` for by its text, or else the tokenizer's, or its end of text, or the config's
    of both. Raises ModelError if there is none of them.
    """
    if asked is not None:
        found = tokenizer.get_vocab().get(asked)
        if found is None or not 0 <= found < tokens:
            raise ModelError(
                f"model.padding={asked!r}: expected a token that tokenizer and model know, such as "
                f"{tokenizer.convert_ids_to_tokens(0)!r}"
            )
        return int(found)
    for told in _told(tokenizer, text_config(model)):
        if type(told) is int and 0 <= told < tokens:
            return told
    raise ModelError(
        "neither tokenizer nor config names a token for padding, or one for the end of a text, that the "
        "model knows: name one in model.padding, such as "
        f"{tokenizer.convert_ids_to_tokens(0)!r}"
    )


def set_padding(tokenizer: Any, model: Any, padding: int) -> None:
    """Make this token the padding of the tokenizer and of the model's configs.

    Raises ModelError for a model that counts positions by another one.
    """
    for name, module in model.named_modules():
        counted = getattr(module, "padding_idx", None)
        by_padding = any("position" in inner for inner, _ in module.named_children())
        if not isinstance(module, nn.Embedding) and by_padding and counted not in {None, padding}:
            raise ModelError(
                f"{name} counts positions by the padding {counted}, and the tokenizer pads with {padding}: "
                "take the tokenizer that belongs to the weights"
            )
    if tokenizer.pad_token_id != padding:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    for config in (model.config, text_config(model)):
        config.pad_token_id = padding


def _told(tokenizer: Any, config: Any) -> Iterator[Any]:
    yield from (tokenizer.pad_token_id, tokenizer.eos_token_id)
    yield getattr(config, "pad_token_id", None)
    ends = getattr(config, "eos_token_id", None)
    yield from ends if isinstance(ends, list) else [ends]
