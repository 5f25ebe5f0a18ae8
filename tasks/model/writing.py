"""A model writes: what it goes on with after prompts, the likeliest or drawn by a seed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.model.adapted_model import AdaptedModel

_TOGETHER = 8
# What is drawn from: as most chat models' makers advise, so that a small one's tail is left out.
_DRAWN = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0}
_LIKELIEST = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}

Tokens = NDArray[np.int32]


def write_on(
    adapted: AdaptedModel,
    prompts: Sequence[Tokens],
    *,
    most: int,
    ends: Collection[int],
    padding: int,
    seed: int | None,
) -> list[Tokens]:
    """What the model writes after each prompt: up to ``most`` tokens, and before the first of ``ends``.

    Drawn by ``seed``; the likeliest token each time if it is None. The model is in eval mode after it.
    """
    adapted.peft.eval()
    found: list[Tokens] = []
    devices = [adapted.device.torch] if adapted.device.torch.type == "cuda" else []
    # transformers draws from torch's own generator and takes no other.
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed or 0)
        for start in range(0, len(prompts), _TOGETHER):
            found += _write(
                adapted,
                prompts[start : start + _TOGETHER],
                how=_LIKELIEST if seed is None else _DRAWN,
                most=most,
                ends=ends,
                padding=padding,
            )
    return found


def _write(
    adapted: AdaptedModel,
    prompts: Sequence[Tokens],
    *,
    how: dict[str, Any],
    most: int,
    ends: Collection[int],
    padding: int,
) -> list[Tokens]:
    width = max(map(len, prompts))
    tokens, mask = (np.full((len(prompts), width), fill, np.int64) for fill in (padding, 0))
    for row, prompt in enumerate(prompts):
        # On the left: the model goes on from the last column.
        tokens[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    with adapted.device.autocast():
        written = adapted.peft.generate(
            input_ids=torch.from_numpy(tokens).to(adapted.device.torch),
            attention_mask=torch.from_numpy(mask).to(adapted.device.torch),
            max_new_tokens=most,
            eos_token_id=sorted(ends) or None,
            pad_token_id=padding,
            use_cache=True,
            **how,
        )
    return [_up_to(row, ends) for row in written[:, width:].cpu().numpy().astype(np.int32)]


def _up_to(row: Tokens, ends: Collection[int]) -> Tokens:
    last = np.flatnonzero(np.isin(row, list(ends)))
    return row[: last[0]] if len(last) else row
