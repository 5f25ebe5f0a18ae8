"""Answers that a model draws to one prompt, token by token, from randomness that is that prompt's alone.

All passes are over one prompt and its own answers: no batch holds another prompt's. So what is written
follows, to the last bit on one machine, from the prompt, the weights and the numbers that it is drawn with,
and not from what else is computed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.model.adapted_model import AdaptedModel
from tasks.model.chosen_places import only_at
from tasks.model.forked_pass import ROUNDING

_STEM, _MORE = 3, 3  # tokens of the text that a model is tried on


@dataclass(frozen=True, kw_only=True)
class DrawnAnswers:
    """Several answers to a prompt, of up to ``most`` tokens each, filled up with padding.

    ``tokens`` is int32[answers, most], ``learned`` bool[answers, most] says which of them were drawn, the
    one that ends an answer too, and ``nats``, float32[answers, most], what each cost.
    """

    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]
    nats: NDArray[np.float32]


def numbers_for(seed: int, place: int, *, answers: int, most: int) -> NDArray[np.float64]:
    """The numbers that the example at a place is drawn with, uniform on [0, 1): float64[answers, most]."""
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, place])))
    return random.random((answers, most))


@torch.no_grad()
def draw_answers(
    adapted: AdaptedModel,
    prompt: NDArray[np.int32],
    numbers: NDArray[np.float64],
    *,
    ends: Collection[int],
    padding: int,
) -> DrawnAnswers:
    """Answers of the adapter that is loaded, in eval mode, by ``numbers``, float64[answers, most].

    A token is the first one, in the vocabulary's order, whose cumulated probability is above its number.
    """
    answers, most = numbers.shape
    device, known = adapted.device.torch, len(prompt)
    tokens = np.full((answers, most), padding, np.int32)
    learned, nats = np.zeros((answers, most), bool), np.zeros((answers, most), np.float32)
    given, cache, going = torch.from_numpy(prompt.astype(np.int64))[None].to(device), None, [True] * answers
    for place in range(most):
        mask = torch.ones((len(given), known + place), dtype=torch.long, device=device)
        last = torch.full((len(given), 1), given.shape[1] - 1, device=device)
        with adapted.device.autocast(), only_at(adapted, last):
            found = adapted.peft(
                input_ids=given, attention_mask=mask, past_key_values=cache, use_cache=True
            )
        cache, logits = found.past_key_values, found.logits[:, -1]
        if place == 0:
            cache.batch_repeat_interleave(answers)
            logits = logits.expand(answers, -1)
        logs = logits.cpu().double().log_softmax(1)
        cumulated = logs.exp().cumsum(1)
        wanted = torch.from_numpy(numbers[:, place, None]) * cumulated[:, -1:]
        chosen = torch.searchsorted(cumulated, wanted, right=True).clamp(max=logs.shape[1] - 1)
        costs = -logs.gather(1, chosen)[:, 0]
        for row in (row for row in range(answers) if going[row]):
            token = int(chosen[row])
            tokens[row, place], learned[row, place], nats[row, place] = token, True, float(costs[row])
            going[row] = token not in ends
        given = torch.from_numpy(tokens[:, place : place + 1].astype(np.int64)).to(device)
    return DrawnAnswers(tokens=tokens, learned=learned, nats=nats)


@torch.no_grad()
def can_go_on(model: Any, *, padding: int, tokens: int) -> bool:
    """Whether a model that is given a text in pieces says of each what it says of the whole text.

    It is tried on a made-up text, of which the beginning is computed once for two rows.
    """
    size = _STEM + _MORE
    known = [token for token in range(min(tokens, size + 1)) if token != padding]
    device = next(model.parameters()).device
    text = torch.tensor([[known[place % len(known)] for place in range(size)]], device=device)
    model.eval()
    try:
        expected = model(input_ids=text, attention_mask=torch.ones_like(text)).logits[0].float()
        begun, cache = text[:, :_STEM], None
        for place in range(_STEM, size):
            mask = torch.ones((len(begun), place), dtype=torch.long, device=device)
            found = model(input_ids=begun, attention_mask=mask, past_key_values=cache, use_cache=True)
            off = (found.logits[:, -1].float() - expected[place - 1]).abs().max()
            if not float(off) <= ROUNDING * float(expected.abs().max()):
                return False
            cache = found.past_key_values
            if place == _STEM:
                cache.batch_repeat_interleave(2)
            begun = text[:, place : place + 1].repeat(2, 1)
    except Exception:  # a model's code raises whatever it likes
        return False
    return True
