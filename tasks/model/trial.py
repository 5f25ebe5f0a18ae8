"""A model is tried on made-up texts before it sees anyone's: it can be run, and is what a task needs."""

from __future__ import annotations

from typing import Any

import torch

from privacy.errors import ModelError
from protocol.plain_text import first_line

_LENGTH = 8
# What rounding may move of logits that do not depend on what was changed, as a share of the largest. A sum
# of 10^4 products in float32 is off by about √10^4 · 2^-24 = 6e-6 of its size, as errors mostly cancel, and
# some tens of layers add theirs up.
_ROUNDING = 1e-4


def try_model(model: Any, *, padding: int, tokens: int, limit: int | None) -> None:
    """Run a model on two texts, one of them padded, twice.

    Raises ModelError if it cannot be run, or draws random numbers even when it is only evaluated.
    """
    texts = made_up_text(padding, tokens, limit).repeat(2, 1)
    masks = torch.ones_like(texts)
    texts[0, 1:], masks[0, 1:] = padding, 0
    # Some say NaN of padding, which nobody reads.
    first, second = (run(model, texts, masks).nan_to_num() for _ in range(2))
    if not torch.equal(first, second):
        raise ModelError(
            f"{type(model).__name__} draws random numbers whenever it is run, so that no result could be "
            "repeated or checked: choose another model"
        )


def check_causal(model: Any, *, task: str, padding: int, tokens: int, limit: int | None) -> None:
    """Raises ModelError if what a model says of a token depends on a later one."""
    text = made_up_text(padding, tokens, limit)
    mask = torch.ones_like(text)
    before = run(model, text, mask)
    changed = text.clone()
    changed[0, -1] = text[0, -2]
    after = run(model, changed, mask)
    moved = (after - before).abs().amax(-1)[0]
    if not float(moved[:-1].max()) <= _ROUNDING * float(before.abs().max()):
        raise ModelError(
            f'task="{task}": {type(model).__name__} sees the tokens that it should guess, as it reads '
            'texts in both directions: choose a causal model, or task="sequence-classification"'
        )


def run(model: Any, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The logits of texts, int64[b, t], under their mask. Raises ModelError if the model cannot be run."""
    model.eval()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=text.to(device), attention_mask=mask.to(device)).logits
    except Exception as error:  # a model's code raises whatever it likes
        raise ModelError(
            f"{type(model).__name__} cannot be run on {len(text)} texts of {text.shape[1]} tokens, which "
            f"task and model.pooling ask of it: {first_line(error)}; choose another model"
        ) from error
    return logits.float()


def made_up_text(padding: int, tokens: int, limit: int | None) -> torch.Tensor:
    """A text, int64[1, t], of tokens that are no padding, neighbours different."""
    length = _LENGTH if limit is None else max(2, min(limit, _LENGTH))
    known = [token for token in range(min(tokens, _LENGTH + 1)) if token != padding]
    return torch.tensor([[known[place % len(known)] for place in range(length)]])
