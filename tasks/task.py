"""The task: from a batch to one loss per example, and made-up examples to try a model on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from privacy.errors import DataError
from tasks.data.examples import Batch, Examples
from tasks.model.adapted_model import AdaptedModel


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the model made of a batch.

    ``losses`` is float32[b], in nats: cross-entropy of the label, or the mean over the text's
    tokens. ``correct`` and ``counted`` are int64[b]: predictions that hit, and how many were made
    (one a text for a classifier, one a token for a language model).
    """

    losses: torch.Tensor
    correct: torch.Tensor
    counted: torch.Tensor


def probe_examples(adapted: AdaptedModel) -> Examples:
    """Three made-up examples, short, middling and as long as any, the same for every data set.

    What a model is tried on before it trains must say nothing about a site's own examples: whether it
    passes is told to the coordinator. What fails on a long text must fail here, on one that nobody wrote.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    config = adapted.peft.config
    longest = adapted.spec.max_length
    lengths = np.array([2, (longest + 2) // 2, longest], np.int64)
    vocabulary, padding = token_choices(adapted)
    classifies = adapted.spec.task == "sequence-classification"
    return Examples(
        tokens=generator.choice(vocabulary, int(lengths.sum())).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=generator.integers(0, config.num_labels, len(lengths)) if classifies else None,
        padding=padding,
    )


def token_choices(adapted: AdaptedModel) -> tuple[NDArray[np.int64], int]:
    """What made-up texts can hold, every token but padding, and the padding."""
    padding = int(getattr(adapted.peft.config, "pad_token_id", None) or 0)
    return np.array([token for token in range(adapted.tokens) if token != padding]), padding


def outcome(adapted: AdaptedModel, batch: Batch) -> Outcome:
    """Run the model on a batch, on its device, in its precision."""
    with adapted.device.autocast():
        logits = adapted.peft(input_ids=batch.tokens, attention_mask=batch.mask).logits
    logits = logits.float()
    if adapted.spec.task == "causal-lm":
        return _language_outcome(logits, batch)
    if adapted.spec.model.pooling == "mean":
        weight = batch.mask.unsqueeze(-1).to(logits.dtype)
        logits = (logits * weight).sum(1) / weight.sum(1)
    labels = batch.labels
    if labels is None:
        raise DataError("expected labelled examples for a classification task, got none")
    return Outcome(
        losses=functional.cross_entropy(logits, labels, reduction="none"),
        correct=(logits.argmax(-1) == labels).long(),
        counted=torch.ones_like(labels),
    )


def _language_outcome(logits: torch.Tensor, batch: Batch) -> Outcome:
    """Each token but the first is predicted; padding counts for nothing."""
    targets = batch.tokens[:, 1:]
    real = batch.mask[:, 1:]
    nats = functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
    counted = real.sum(1)
    hits = (logits[:, :-1].argmax(-1) == targets).long() * real
    return Outcome(losses=(nats * real).sum(1) / counted, correct=hits.sum(1), counted=counted)
