"""How much each token of a text counts for what a model makes of it: integrated gradients, by Captum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import UserError
from tasks.data.examples import Batch, Examples
from tasks.model.adapted_model import AdaptedModel

_ROWS = 16  # examples at once
_STEPS = 32  # points on the way from the baseline to the text
_AT_ONCE = 128  # rows that the model computes at once


@dataclass(frozen=True, kw_only=True)
class Attributed:
    """One example: its ``tokens``, int64[t], and each one's share of all that counts, float64[t].

    Shares are absolute values and add up to 1, or are all 0 where nothing counts. ``loss`` is in nats,
    ``answer`` the label that the model gives, None for a task without labels. ``gap`` is how far the
    attributions' sum is from what they should add up to, in nats.
    """

    index: int
    tokens: NDArray[np.int64]
    shares: NDArray[np.float64]
    loss: float
    answer: int | None
    gap: float


def check_captum() -> None:
    """Raises UserError, with what to type, where Captum is not installed."""
    if find_spec("captum") is None:
        raise UserError(
            "confide audit drift takes Captum, which is not installed: pip install 'confide[drift]'"
        )


def attribute_tokens(
    adapted: AdaptedModel, adapter: NDArray[np.float32], examples: Examples
) -> list[Attributed]:
    """Attribute each example's log-likelihood under an adapter, float32[adapter_size], to its tokens.

    From a text of padding, whose special tokens are the text's own, to the text, along the embeddings. The
    answers are in the examples' order. Raises UserError for examples that are no tokens. Captum must be
    there.

    Source: Sundararajan, Taly and Yan 2017, equation 1.
    """
    from captum.attr import LayerIntegratedGradients

    adapted.load(adapter)
    adapted.peft.eval()

    def likelihood(tokens: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": tokens, **dict(zip(names, others, strict=True))}
        batch = Batch(inputs=inputs, indices=np.arange(len(tokens)), size=tokens.shape[1])
        return -adapted.forward(batch).losses

    method = LayerIntegratedGradients(likelihood, adapted.peft.get_input_embeddings())
    found: list[Attributed] = []
    for held in examples.batches(np.arange(len(examples)), rows=_ROWS):
        batch = held.to(adapted.device.torch)
        if "input_ids" not in batch.inputs:
            raise UserError(
                f"expected runs on texts, got task={adapted.task.name!r}: importance is told by token"
            )
        names = [name for name in batch.inputs if name != "input_ids"]
        tokens = batch.inputs["input_ids"]
        special = _special(adapted, tokens, batch)
        baseline = torch.where(special, tokens, torch.full_like(tokens, adapted.base.reader.padding))
        parts, gaps = method.attribute(
            tokens,
            baselines=baseline,
            additional_forward_args=tuple(batch.inputs[name] for name in names),
            n_steps=_STEPS,
            internal_batch_size=_AT_ONCE,
            return_convergence_delta=True,
        )
        with torch.no_grad():
            outcome = adapted.forward(batch)
        weights = parts.detach().double().sum(-1).abs().masked_fill(special, 0.0)
        found += _split(batch, tokens, weights, ~special, outcome.losses, outcome.answers, gaps)
    return sorted(found, key=lambda one: one.index)


def _special(adapted: AdaptedModel, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Which places hold padding, or a token that the tokenizer put there: bool[b, t]."""
    ids = torch.tensor(sorted(adapted.base.reader.tokenizer.all_special_ids), device=tokens.device)
    return torch.isin(tokens, ids) | (batch.inputs["attention_mask"] == 0)


def _split(
    batch: Batch,
    tokens: torch.Tensor,
    weights: torch.Tensor,
    kept: torch.Tensor,
    losses: torch.Tensor,
    answers: torch.Tensor | None,
    gaps: torch.Tensor,
) -> Iterator[Attributed]:
    """A batch's examples, each with its own tokens alone."""
    for row, index in enumerate(batch.indices):
        own = weights[row][kept[row]].cpu().numpy()
        total = own.sum()
        yield Attributed(
            index=int(index),
            tokens=tokens[row][kept[row]].cpu().numpy(),
            shares=own / total if total > 0 else own,
            loss=float(losses[row]),
            answer=None if answers is None else int(answers[row]),
            gap=abs(float(gaps[row])),
        )
