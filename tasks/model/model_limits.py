"""What a model can take: how long a text, and which tokens.

Found before anyone's data are read. A text that is too long, or a token that has no row, would fail in the
middle of a round instead, and so tell that such a text was drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from privacy.errors import ModelError

_SHORT = 2  # tokens; every text has as many
_SHORTEST = 8  # the narrowest batch of training has as many columns


def shortest_text(model: Any) -> int:
    """How many tokens a text must have at least: some models pool tokens away, and cannot with one or two.

    Raises ModelError if the model cannot be run on any short text.
    """
    for length in range(1, _SHORTEST):
        try:
            _lookups(model, length)
            return length
        except ModelError:
            continue
    _lookups(model, _SHORTEST)
    return _SHORTEST


def longest_text(model: Any, *, shortest: int = _SHORT) -> int | None:
    """How many tokens a text may have, None if the model sets no limit.

    That is what the config says, or less where a table of positions has fewer rows for texts, as in
    RoBERTa, which begins to count after its padding. Such tables are found by how they are used, whatever
    their name: the last row that a text looks up moves on with its length. Raises ModelError if the model
    cannot be run.
    """
    limits = _rows_for_positions(model, max(shortest, _SHORT))
    told = getattr(text_config(model), "max_position_embeddings", None)
    if isinstance(told, int) and told > 0:  # some say -1 for none
        limits.append(told)
    return min(limits, default=None)


def count_tokens(model: Any) -> int:
    """How many tokens a model knows: those from 0 up to this have a row in its embedding, and an output.

    Raises ModelError if that cannot be told.
    """
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    rows = [int(table.weight.shape[0]) for table in tables if hasattr(table, "weight")]
    if not rows:
        raise ModelError("the model has no embedding of tokens: choose another model")
    return min(rows)


def check_tokenizer(tokenizer: Any, *, tokens: int) -> None:
    """Raises ModelError if a tokenizer makes tokens that a model of so many does not know, or no words.

    A padding that it does not know does not count: many are added by hand, and another one can be chosen.
    """
    # transformers makes one of its own where a folder has none: it knows a family's special tokens alone.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ModelError(
            "the tokenizer knows no words: its files are not there (tokenizer.json, or a vocabulary and "
            "tokenizer_config.json); copy them to the weights"
        )
    made = set(tokenizer.get_vocab().values()) - {tokenizer.pad_token_id}
    # What is put around a text is in a table of its own.
    made.update(tokenizer("")["input_ids"], tokenizer("a")["input_ids"])
    if max(made, default=0) >= tokens or min(made, default=0) < 0:
        raise ModelError(
            f"the tokenizer makes tokens up to {max(made)}, and the model knows those below {tokens}: "
            "take the tokenizer that belongs to the weights"
        )


def text_config(model: Any) -> Any:
    """The config of the part that reads text, where a model has several."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


class _Lookups(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each lookup in a table: its rows, the highest index, and how many indices there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default:
            table, indices = args[:2]
            self.found.append((len(table), int(indices.max()), indices.numel()))
        return func(*args, **(kwargs or {}))


def _rows_for_positions(model: nn.Module, short: int) -> list[int]:
    """For each table that positions are looked up in: how many positions it has for a text."""
    shorter, longer = _lookups(model, short), _lookups(model, short + 1)
    if len(shorter) != len(longer):
        return []
    found = []
    for (rows, last, count), (_, next_last, next_count) in zip(shorter, longer, strict=True):
        # Relative positions are looked up for each pair of tokens: many more for one token more.
        if next_last == last + 1 and next_count <= count + 1:
            begin = last - (short - 1)
            found.append(rows - begin)
    return found


def _lookups(model: Any, length: int) -> list[tuple[int, int, int]]:
    """Run the model on a made-up text of one token again and again."""
    padding = getattr(text_config(model), "pad_token_id", None)
    text = torch.full((1, length), 0 if padding != 0 else 1, device=next(model.parameters()).device)
    try:
        with torch.no_grad(), _Lookups() as lookups:
            model(input_ids=text, attention_mask=torch.ones_like(text))
    except Exception as error:  # a model's code raises whatever it likes
        raise ModelError(f"the model cannot be run on a text of {length} tokens: {error}") from error
    found: list[tuple[int, int, int]] = lookups.found
    return found
