"""What tasks of causal language models have in common: how one is loaded, and how its tokens are scored."""

from __future__ import annotations

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
    labelled = False
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


def logits_of(adapted: AdaptedModel, batch: Batch) -> torch.Tensor:
    """What a model says of the next token, float32[rows, t, vocabulary], for each row of a batch."""
    tokens, mask = (rows_of(batch.inputs[name]) for name in ("input_ids", "attention_mask"))
    with adapted.device.autocast():
        logits: torch.Tensor = adapted.peft(input_ids=tokens, attention_mask=mask).logits
    return logits.float()


def rows_of(inputs: torch.Tensor) -> torch.Tensor:
    """An input of tokens, [b, t] or [b, rows, t], with a row of the model's in each: [b · rows, t]."""
    return inputs.reshape(-1, inputs.shape[-1])


def nats_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token but the first, float32[rows, t - 1]."""
    from torch.nn import functional

    return functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


def token_outcome(adapted: AdaptedModel, batch: Batch, counts: torch.Tensor) -> Outcome:
    """How each text's tokens are told that ``counts``, int64[b, t], has at 1; the first never is."""
    tokens, counts = batch.inputs["input_ids"], counts[:, 1:]
    logits = logits_of(adapted, batch)
    counted = counts.sum(1)
    hits = (logits[:, :-1].argmax(-1) == tokens[:, 1:]).long() * counts
    losses = (nats_of(logits, tokens) * counts).sum(1) / counted
    return Outcome(losses=losses, correct=hits.sum(1), counted=counted)


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
