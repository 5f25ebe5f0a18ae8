"""What tasks of causal language models have in common: how one is loaded, and how its tokens are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy.errors import ModelError
from protocol.job.job import Dirichlet
from tasks.task import Outcome
from tasks.text import TextTask

if TYPE_CHECKING:
    import torch

    from protocol.job.job import Job
    from tasks.data.examples import Batch
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.checkpoint import Checkpoint
    from tasks.model.device import Device


class LanguageTask(TextTask):
    """A task of transformers' causal language models, whose own head stays frozen."""

    name: str
    labelled, headed = False, False
    pipeline = "text-generation"
    least_tokens = 2  # a token is told from those before it

    def refuses(self, job: Job, section: Any) -> str | None:  # noqa: ARG002  # a task's own keys are its own
        """What needs labels makes no sense."""
        if job.model.pooling == "mean":
            return 'model.pooling: "mean" is for task="sequence-classification"'
        if job.model.head != "new":
            return 'model.head: "checkpoint" is for task="sequence-classification"'
        if isinstance(job.federation.partition, Dirichlet):
            return f'federation.partition: dirichlet needs labels; task="{self.name}" has none'
        return None

    def load(self, job: Job, section: Any, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The language model, as it is. Raises ModelError for one that sees what it should guess."""
        from tasks.model.base_model import load_pretrained
        from tasks.model.trial import check_causal

        loaded = load_pretrained(job, purpose=_LanguageModel(self.name), labels=labels, device=device)
        check_causal(
            loaded.model, task=self.name, padding=loaded.padding, tokens=loaded.tokens, limit=loaded.limit
        )
        return self.wrap(loaded, section=section, peft_type="CAUSAL_LM")


@dataclass(frozen=True, kw_only=True)
class Told:
    """How tokens are told from those before them, row by row of a model's.

    ``nats`` is float32[rows, k], ``hits`` int64[rows, k], and ``counted``, int64[rows, k], is 1 where a
    token counts.
    """

    nats: torch.Tensor
    hits: torch.Tensor
    counted: torch.Tensor


def tell_tokens(
    adapted: AdaptedModel, batch: Batch, counts: torch.Tensor, *, most: int | None = None
) -> Told:
    """Tell the tokens that ``counts``, int64[rows, t], has at 1; the first never is.

    No row has more than ``most`` of them, if that is given: then the model's last layer, with a number for
    each word, is computed for so many places alone, whatever the row holds.
    """
    from torch.nn import functional

    from tasks.model.chosen_places import only_at

    tokens, mask = (rows_of(batch.inputs[name]) for name in ("input_ids", "attention_mask"))
    targets, counted = tokens[:, 1:], counts[:, 1:]
    places = None
    if most is not None and most < targets.shape[1]:
        places = counted.argsort(dim=1, descending=True, stable=True)[:, :most]
        targets, counted = targets.gather(1, places), counted.gather(1, places)
    with adapted.device.autocast(), only_at(adapted, places):
        logits = adapted.peft(input_ids=tokens, attention_mask=mask).logits
    logits = logits.float()[:, : targets.shape[1]]
    nats = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return Told(nats=nats * counted, hits=(logits.argmax(-1) == targets).long() * counted, counted=counted)


def tell_endings(adapted: AdaptedModel, batch: Batch, *, most: int | None = None) -> torch.Tensor:
    """Of texts with two endings, what the learned tokens of each cost in nats: float32[b, 2].

    No ending has more than ``most`` learned tokens, if that is given: see ``tell_tokens``.
    """
    import torch

    branches = batch.inputs["branches"]
    counted = batch.inputs["learned"] * (branches > 0)
    # All places of endings that are learned, and as many others as fill up what each row has.
    size = branches.shape[1] if most is None else min(2 * most, branches.shape[1])
    places = counted.argsort(dim=1, descending=True, stable=True)[:, :size]
    nats = _tell_at(adapted, batch, places, endings=2) * counted.gather(1, places)
    branches = branches.gather(1, places)
    return torch.stack([(nats * (branches == number)).sum(1) for number in (1, 2)], dim=1)


def tell_answers(
    adapted: AdaptedModel, batch: Batch, *, endings: int, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of texts with so many endings of ``most`` tokens each, what every token of each costs, in nats.

    float32[b, endings, most], and which of them are learned, int64[b, endings, most]. Others cost nothing.
    """
    branches, shape = batch.inputs["branches"], (-1, endings, most)
    places = (branches > 0).long().argsort(dim=1, descending=True, stable=True)[:, : endings * most]
    counted = (batch.inputs["learned"] * (branches > 0)).gather(1, places)
    nats = _tell_at(adapted, batch, places, endings=endings) * counted
    return nats.reshape(shape), counted.reshape(shape)


def _tell_at(adapted: AdaptedModel, batch: Batch, places: torch.Tensor, *, endings: int) -> torch.Tensor:
    """What the tokens at ``places``, int64[b, k], of texts with several endings cost: float32[b, k]."""
    from torch.nn import functional

    from tasks.model.chosen_places import only_at
    from tasks.model.forked_pass import ForkedPass, float_type

    tokens, real, branches = (batch.inputs[name] for name in ("input_ids", "attention_mask", "branches"))
    forked = ForkedPass.of(branches, real, dtype=float_type(adapted.peft), endings=endings)
    targets, before = tokens.gather(1, places), forked.before.gather(1, places)
    with adapted.device.autocast(), only_at(adapted, before):
        logits = adapted.peft(input_ids=tokens, **forked.inputs).logits
    nats = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return nats.reshape(targets.shape)


def rows_of(inputs: torch.Tensor) -> torch.Tensor:
    """An input of tokens, [b, t] or [b, rows, t], with a row of the model's in each: [b · rows, t]."""
    return inputs.reshape(-1, inputs.shape[-1])


def token_outcome(
    adapted: AdaptedModel, batch: Batch, counts: torch.Tensor, *, most: int | None = None
) -> Outcome:
    """The mean loss of each text's tokens, as ``tell_tokens`` tells them."""
    told = tell_tokens(adapted, batch, counts, most=most)
    counted = told.counted.sum(1)
    return Outcome(losses=told.nats.sum(1) / counted, correct=told.hits.sum(1), counted=counted)


class _LanguageModel:
    """A model loaded as it is, its own head included."""

    def __init__(self, task: str) -> None:
        self._task = task

    def choose(self, config: Any) -> Any:
        import transformers

        auto = transformers.AutoModelForCausalLM
        if type(config) not in auto._model_mapping or config.is_encoder_decoder:
            raise ModelError(
                f'task="{self._task}": {config.model_type} is no language model that reads a text from its '
                "beginning alone: choose a causal one"
            )
        return auto

    def find_head(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        if checkpoint.lacking:
            raise ModelError(
                f'task="{self._task}": the weights lack {checkpoint.lacking[0]}: expected them saved as '
                f"{type(checkpoint.model).__name__}, got {', '.join(checkpoint.saved_as) or 'others'}"
            )
        return ()

    def begin(self, checkpoint: Checkpoint, head: tuple[str, ...]) -> None:
        """Nothing is to be set."""
