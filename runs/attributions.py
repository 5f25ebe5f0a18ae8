"""How much each part of an example counts for what a model makes of it, by Captum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import UserError
from tasks.data.examples import Batch, Examples
from tasks.model.adapted_model import AdaptedModel

_ROWS = 16  # examples at once
_STEPS = 32  # points on the way from the baseline to the text
_AT_ONCE = 128  # rows that the model computes at once
_ORDERS = 32  # in which a table's columns are added to a row


@dataclass(frozen=True, kw_only=True)
class Attributed:
    """One example: its ``parts``, int64[t], and each one's share of all that counts, float64[t].

    Shares are absolute values and add up to 1, or are all 0 where nothing counts. ``loss`` is in nats,
    ``answer`` the label that the model gives, None for a task without labels. ``gap`` is how far the
    attributions' sum is from what they should add up to, in nats.
    """

    index: int
    parts: NDArray[np.int64]
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


def attribute(adapted: AdaptedModel, adapter: NDArray[np.float32], examples: Examples) -> list[Attributed]:
    """Attribute each example's log-likelihood under an adapter, float32[adapter_size], to its parts.

    Of a text they are its tokens: integrated gradients from a text of padding, whose special tokens are the
    text's own, to the text, along the embeddings. Of a series they are its channels, by the same from
    zeros; of a table its columns, by Shapley values: what a column adds to zeros and to other columns, in
    the mean over orders. The answers are in the examples' order. Raises UserError for examples that are
    none of these. It takes Captum.

    Source: Sundararajan, Taly and Yan 2017, equation 1, and see ``_by_shapley``.
    """
    adapted.load(adapter)
    adapted.peft.eval()
    found: list[Attributed] = []
    for held in examples.batches(np.arange(len(examples)), rows=_ROWS):
        batch = held.to(adapted.device.torch)
        # Two answers, in two rows or as two endings of one, are no text.
        if "input_ids" in batch.inputs and batch.rows_an_example == 1 and "branches" not in batch.inputs:
            measured = _of_tokens(adapted, batch)
        elif _has_columns(adapted, batch):
            measured = _of_values(adapted, batch)
        else:
            raise UserError(
                f"expected runs on texts, tables or series, got task={adapted.task.name!r}: importance is "
                "told by token, column or channel"
            )
        with torch.no_grad():
            outcome = adapted.forward(batch)
        found += _split(batch, measured, outcome.losses, outcome.answers)
    return sorted(found, key=lambda one: one.index)


def name_of(adapted: AdaptedModel, part: int) -> str:
    """A part as people read it: a token's text, or a column's name."""
    reader: Any = adapted.base.reader
    if not hasattr(reader, "tokenizer"):
        return _columns(adapted)[part]
    written = str(reader.tokenizer.convert_ids_to_tokens(part))
    return reader.tokenizer.convert_tokens_to_string([written]).strip() or written


class _Measured(NamedTuple):
    """Of each place of b examples: its part, int64[b, t], how much it counts, and whether it is one."""

    parts: torch.Tensor
    weights: torch.Tensor
    kept: torch.Tensor
    gaps: torch.Tensor


def _of_tokens(adapted: AdaptedModel, batch: Batch) -> _Measured:
    from captum.attr import LayerIntegratedGradients

    tokens = batch.inputs["input_ids"]
    ids = torch.tensor(sorted(adapted.base.reader.tokenizer.all_special_ids), device=tokens.device)
    special = torch.isin(tokens, ids) | (batch.inputs["attention_mask"] == 0)
    likelihood, others = _likelihood(adapted, batch, "input_ids")
    found, gaps = LayerIntegratedGradients(likelihood, adapted.peft.get_input_embeddings()).attribute(
        tokens,
        baselines=torch.where(special, tokens, torch.full_like(tokens, adapted.base.reader.padding)),
        additional_forward_args=others,
        n_steps=_STEPS,
        internal_batch_size=_AT_ONCE,
        return_convergence_delta=True,
    )
    weights = found.detach().double().sum(-1).abs()
    return _Measured(tokens, weights, ~special, gaps)


def _columns(adapted: AdaptedModel) -> tuple[str, ...]:
    """The columns or channels that a network reads, by name, in order; none for other models."""
    return tuple(dict.fromkeys(getattr(adapted.base.reader, "columns", ())))


def _has_columns(adapted: AdaptedModel, batch: Batch) -> bool:
    """Whether an example is numbers, [b, f, …], whose reader has a column's name for each of f."""
    values, names = batch.inputs.get("values"), getattr(adapted.base.reader, "columns", ())
    if values is None or batch.rows_an_example > 1:
        return False
    return values.is_floating_point() and values.shape[1:2] == (len(names),)


def _of_values(adapted: AdaptedModel, batch: Batch) -> _Measured:
    values, names = batch.inputs["values"], _columns(adapted)
    # A column is several of a network's inputs: its number or categories, and whether it is there.
    owners = torch.tensor([names.index(one) for one in adapted.base.reader.columns], device=values.device)
    find = _by_shapley if values.dim() == 2 else _by_gradients
    weights, gaps = find(adapted, batch, owners)
    parts = torch.arange(len(names), device=values.device).expand(len(values), -1)
    return _Measured(parts, weights.abs(), torch.ones_like(parts, dtype=torch.bool), gaps)


def _by_shapley(
    adapted: AdaptedModel, batch: Batch, owners: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each column's Shapley value, float64[b, columns], over orders that are drawn alike for all models.

    Source: Castro, Gómez and Tejada 2009; Lundberg and Lee 2017 (arXiv:1705.07874), equation 4.
    """
    from captum.attr import ShapleyValueSampling

    values = batch.inputs["values"]
    likelihood, others = _likelihood(adapted, batch, "values")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)  # Captum draws its orders from torch's own generator
        found = ShapleyValueSampling(likelihood).attribute(
            values,
            feature_mask=owners[None],
            additional_forward_args=others,
            n_samples=_ORDERS,
            perturbations_per_eval=_AT_ONCE // _ROWS,
        )
        moved = likelihood(values, *others) - likelihood(torch.zeros_like(values), *others)
    # Each of a column's inputs has the whole column's value.
    first = [int((owners == column).nonzero()[0]) for column in range(int(owners.max()) + 1)]
    weights = found.detach().double()[:, first]
    return weights, weights.sum(1) - moved


def _by_gradients(
    adapted: AdaptedModel, batch: Batch, owners: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each channel's integrated gradients, float64[b, channels], added up over time."""
    from captum.attr import IntegratedGradients

    values = batch.inputs["values"]
    likelihood, others = _likelihood(adapted, batch, "values")
    found, gaps = IntegratedGradients(likelihood).attribute(
        values,
        additional_forward_args=others,
        n_steps=_STEPS,
        internal_batch_size=_AT_ONCE,
        return_convergence_delta=True,
    )
    of_inputs = found.detach().double().flatten(2).sum(-1)
    weights = of_inputs.new_zeros(len(values), int(owners.max()) + 1)
    return weights.index_add_(1, owners, of_inputs), gaps


def _likelihood(
    adapted: AdaptedModel, batch: Batch, main: str
) -> tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]:
    """Each example's log-likelihood by its ``main`` input and the others, and these others."""
    names = [name for name in batch.inputs if name != main]

    def likelihood(given: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        inputs = {main: given, **dict(zip(names, others, strict=True))}
        return -adapted.forward(replace(batch, inputs=inputs, indices=np.arange(len(given)))).losses

    return likelihood, tuple(batch.inputs[name] for name in names)


def _split(
    batch: Batch, measured: _Measured, losses: torch.Tensor, answers: torch.Tensor | None
) -> Iterator[Attributed]:
    """A batch's examples, each with its own parts alone."""
    for row, index in enumerate(batch.indices):
        kept = measured.kept[row]
        own = measured.weights[row][kept].cpu().numpy()
        total = own.sum()
        yield Attributed(
            index=int(index),
            parts=measured.parts[row][kept].cpu().numpy(),
            shares=own / total if total > 0 else own,
            loss=float(losses[row]),
            answer=None if answers is None else int(answers[row]),
            gap=abs(float(measured.gaps[row])),
        )
