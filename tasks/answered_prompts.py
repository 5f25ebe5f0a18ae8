"""Prompts with the answers that a model gives, and what judges and the base model say of these."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.examples import offsets_of
from tasks.data.token_examples import TokenExamples
from tasks.language import tell_answers
from tasks.model.adapted_model import AdaptedModel
from tasks.model.drawn_answers import draw_answers, numbers_for
from tasks.model.judge import Judge

log = logging.getLogger("confide.training")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What answers are judged by, and the tokens that end one."""

    reward: Judge
    constraint: Judge | None
    ends: tuple[int, ...]


def parts_of(targets: torch.Tensor, answers: int, most: int) -> tuple[torch.Tensor, ...]:
    """What was kept of b examples' answers, float32[b, 2 · answers · (1 + most)], in its parts.

    They are scores and whether the constraint is kept, [b, answers], and the log-probabilities of the
    round's model and of the base model, [b, answers, most].
    """
    ends = (answers, 2 * answers, 2 * answers + answers * most)
    scores, kept, before, base = targets.tensor_split(ends, dim=1)
    shape = (-1, answers, most)
    return scores, kept, before.reshape(shape), base.reshape(shape)


def answered_or_blank(
    adapted: AdaptedModel, prompts: TokenExamples, place: int, *, seed: int
) -> TokenExamples:
    """An example with its answers, whatever the model does: to stop would tell that it was drawn."""
    one = prompts.take(np.array([place]))
    try:
        return answered(adapted, one.tokens[np.asarray(one.branches) == 0], place=place, seed=seed)
    except Exception as error:  # a model's code raises whatever it likes
        log.warning("the model fails on a prompt, which counts as blank: %s", type(error).__name__)
        section = adapted.spec.data
        size = 2 * section["samples"] * (1 + section["max_answer"])
        return replace(one, targets=np.full((1, size), np.nan, np.float32))


def answered(adapted: AdaptedModel, prompt: NDArray[np.int32], *, place: int, seed: int) -> TokenExamples:
    """A prompt with answers of the adapter that is loaded, and what they are worth: one example."""
    section, reader, panel = adapted.spec.data, adapted.base.reader, adapted.base.beside
    answers, most = section["samples"], section["max_answer"]
    numbers = numbers_for(seed, place, answers=answers, most=most)
    drawn = draw_answers(adapted, prompt, numbers, ends=panel.ends, padding=reader.padding)
    size = len(prompt) + drawn.tokens.size
    one = TokenExamples(
        tokens=np.concatenate([prompt, drawn.tokens.reshape(-1)]),
        offsets=offsets_of(np.array([size])),
        labels=None,
        padding=reader.padding,
        learned=np.concatenate([np.zeros(len(prompt), bool), drawn.learned.reshape(-1)]),
        branches=np.repeat(np.arange(answers + 1), [len(prompt), *[most] * answers]).astype(np.int8),
    )
    with torch.no_grad(), adapted.as_it_began():
        batch = one.batch(np.arange(1)).to(adapted.device.torch)
        base, _ = tell_answers(adapted, batch, endings=answers, most=most)
    begun = reader.tokenizer.decode(prompt.tolist(), skip_special_tokens=True)
    said = [
        reader.tokenizer.decode(tokens[learned].tolist(), skip_special_tokens=True).strip()
        for tokens, learned in zip(drawn.tokens, drawn.learned, strict=True)
    ]

    def scores(judge: Judge, reads: str) -> NDArray[np.float32]:
        return judge.scores([begun + one for one in said] if reads == "whole" else said)

    kept = np.ones(answers, np.float32)
    if panel.constraint is not None:
        asked = section["constraint"]
        kept = (scores(panel.constraint, asked["reads"]) >= asked["least"]).astype(np.float32)
    told = [scores(panel.reward, section["reward"]["reads"]), kept, -drawn.nats.reshape(-1)]
    targets = np.concatenate([*told, -base.cpu().numpy().reshape(-1)])
    return replace(one, targets=targets[None].astype(np.float32))
