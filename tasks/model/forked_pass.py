"""One pass over a text with several endings, each of which sees the beginning and itself alone.

What all answers to a prompt begin with, which is most of it, is so computed once. An ending's tokens have
the places that they would have without the others, and the attention's mask hides these from them: so
what the model says of them is what it says of each answer by itself, to rounding. Not every model takes
places and masks like that, which is tried before its use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tasks.model.model_limits import text_config

_STEM, _ENDINGS = 3, (2, 3)  # tokens of the text that a model is tried on
# What rounding may move of logits, as a share of the largest: see ``tasks.model.trial``.
ROUNDING = 1e-4
# Names of what, in a config, lets a layer see so many tokens back alone: its own mask would be lost.
_WINDOWS = ("sliding_window", "attention_chunk_size")


@dataclass(frozen=True, kw_only=True)
class ForkedPass:
    """How rows of t tokens with several endings are read.

    ``positions`` is int64[b, t]; ``before``, int64[b, t], is where the token stands that a token is told
    from; ``mask``, [b, 1, t, t], is added to the attention's scores.
    """

    positions: torch.Tensor
    before: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(
        cls, branches: torch.Tensor, real: torch.Tensor, *, dtype: torch.dtype, endings: int = 2
    ) -> ForkedPass:
        """For rows with these ``branches``, int64[b, t], that are padded where ``real`` is 0.

        A row has no more than so many ``endings``, one after another.
        """
        places = torch.arange(branches.shape[1], device=branches.device).expand_as(branches)
        shared = ((branches == 0) & (real > 0)).sum(1, keepdim=True)
        sizes = torch.stack([(branches == number).sum(1) for number in range(1, endings + 1)], dim=1)
        # Of each ending, how many tokens of others come before it.
        earlier = torch.cat([torch.zeros_like(shared), sizes.cumsum(1) - sizes], dim=1).gather(1, branches)
        positions = (places - earlier) * real  # tables end where texts do
        begins = (branches > 0) & (places == shared + earlier)
        before = torch.where(begins, shared - 1, places - 1).clamp(min=0)
        one, other = branches.unsqueeze(2), branches.unsqueeze(1)
        seen = ((other == 0) | (one == other)) & (real.unsqueeze(1) > 0)
        seen = (seen & (places.unsqueeze(1) <= places.unsqueeze(2))) | (
            places.unsqueeze(1) == places.unsqueeze(2)
        )
        hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        mask = hidden.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
        return cls(positions=positions, before=before, mask=mask)

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What a model of transformers' is given beside the tokens."""
        return {"attention_mask": self.mask, "position_ids": self.positions}


def float_type(model: Any) -> torch.dtype:
    """What a model computes in where nothing else is said."""
    found: torch.dtype = model.get_input_embeddings().weight.dtype
    return found


@torch.no_grad()
def can_fork(model: Any, *, padding: int, tokens: int, longest: int, limit: int | None) -> bool:
    """Whether a model tells both endings of a row as it tells each text by itself.

    Rows have up to ``longest`` tokens, and the model takes ``limit``. It is tried on a made-up text.
    """
    config = text_config(model)
    windows = [getattr(config, name, None) for name in _WINDOWS]
    if any(isinstance(window, int) and 0 < window < longest for window in windows):
        return False
    size = _STEM + sum(_ENDINGS)
    if limit is not None and limit < max(longest, size + 1):
        return False
    known = [token for token in range(min(tokens, size + 1)) if token != padding]
    device = next(model.parameters()).device
    text = torch.tensor([known[place % len(known)] for place in range(size)], device=device)
    stem, first, second = torch.split(text, [_STEM, *_ENDINGS])
    row = torch.cat([text, text.new_full((1,), padding)])[None]
    branches = torch.repeat_interleave(
        torch.tensor([0, 1, 2, 0], device=device), torch.tensor([_STEM, *_ENDINGS, 1], device=device)
    )[None]
    real = torch.ones_like(row)
    real[0, -1] = 0
    model.eval()
    try:
        forked = ForkedPass.of(branches, real, dtype=float_type(model))
        found = model(input_ids=row, **forked.inputs).logits[0].float()
        for number, ending in ((1, first), (2, second)):
            alone = torch.cat([stem, ending])[None]
            expected = model(input_ids=alone, attention_mask=torch.ones_like(alone)).logits[0].float()
            off = (found[branches[0] == number] - expected[_STEM:]).abs().max()
            if not float(off) <= ROUNDING * float(expected.abs().max()):
                return False
    except Exception:  # a model's code raises whatever it likes: it is computed as two rows then
        return False
    return True
