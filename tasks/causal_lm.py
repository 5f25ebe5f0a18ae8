"""Texts alone: each token of one from those before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from privacy.errors import ModelError
from protocol.job.job import Dirichlet
from tasks.measures import PERPLEXITY, TOKEN_ACCURACY
from tasks.task import Outcome
from tasks.text import TextSection, TextTask

if TYPE_CHECKING:
    from protocol.job.job import Job
    from tasks.data.examples import Batch
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.checkpoint import Checkpoint
    from tasks.model.device import Device


class CausalLanguageModel(TextTask):
    """The next token: transformers' causal language models, whose own head stays frozen."""

    name = "causal-lm"
    about = "the next token of a text"
    labelled = False
    measures = (PERPLEXITY, TOKEN_ACCURACY)
    least_tokens = 2  # it predicts from the second one on

    def refuses(self, job: Job, section: TextSection) -> str | None:
        """What needs labels makes no sense."""
        if section.label is not None or section.labels is not None:
            return 'data.label: expected none for task="causal-lm", which learns text'
        if job.model.pooling == "mean":
            return 'model.pooling: "mean" is for task="sequence-classification"'
        if job.model.head != "new":
            return 'model.head: "checkpoint" is for task="sequence-classification"'
        if isinstance(job.federation.partition, Dirichlet):
            return 'federation.partition: dirichlet needs labels; task="causal-lm" has none'
        return None

    def load(self, job: Job, section: TextSection, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The language model, as it is. Raises ModelError for one that sees what it should guess."""
        from tasks.model.base_model import load_pretrained
        from tasks.model.trial import check_causal

        loaded = load_pretrained(job, purpose=_LanguageModel(), labels=labels, device=device)
        check_causal(loaded.model, padding=loaded.padding, tokens=loaded.tokens, limit=loaded.limit)
        return self.wrap(loaded, section=section, peft_type="CAUSAL_LM")

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Cross-entropy, a mean over the text's tokens but the first; padding counts for nothing."""
        from torch.nn import functional

        tokens, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        with adapted.device.autocast():
            logits = adapted.peft(input_ids=tokens, attention_mask=mask).logits
        logits = logits.float()[:, :-1]
        targets, real = tokens[:, 1:], mask[:, 1:]
        nats = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        counted = real.sum(1)
        hits = (logits.argmax(-1) == targets).long() * real
        return Outcome(losses=(nats * real).sum(1) / counted, correct=hits.sum(1), counted=counted)


class _LanguageModel:
    """A model loaded as it is, its own head included."""

    def choose(self, config: Any) -> Any:
        import transformers

        auto = transformers.AutoModelForCausalLM
        if type(config) not in auto._model_mapping or config.is_encoder_decoder:
            raise ModelError(
                f'task="causal-lm": {config.model_type} is no language model that reads a text from its '
                "beginning alone: choose a causal one"
            )
        return auto

    def find_head(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        if checkpoint.lacking:
            raise ModelError(
                f'task="causal-lm": the weights lack {checkpoint.lacking[0]}: expected them saved as '
                f"{type(checkpoint.model).__name__}, got {', '.join(checkpoint.saved_as) or 'others'}"
            )
        return ()

    def begin(self, checkpoint: Checkpoint, head: tuple[str, ...]) -> None:
        """Nothing is to be set."""


TASK = CausalLanguageModel()
