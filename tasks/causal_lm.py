"""Texts alone: each token of one from those before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.language import LanguageTask, token_outcome
from tasks.measures import PERPLEXITY, TOKEN_ACCURACY
from tasks.text import TextSection

if TYPE_CHECKING:
    from protocol.job.job import Job
    from tasks.data.examples import Batch
    from tasks.model.adapted_model import AdaptedModel
    from tasks.task import Outcome


class CausalLanguageModel(LanguageTask):
    """The next token of a text, from the second one on."""

    name = "causal-lm"
    about = "the next token of a text"
    measures = (PERPLEXITY, TOKEN_ACCURACY)

    def refuses(self, job: Job, section: TextSection) -> str | None:
        """What needs labels makes no sense."""
        if section.label is not None or section.labels is not None:
            return 'data.label: expected none for task="causal-lm", which learns text'
        return super().refuses(job, section)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Cross-entropy, a mean over the text's tokens but the first; padding counts for nothing."""
        return token_outcome(adapted, batch, batch.inputs["attention_mask"])


TASK = CausalLanguageModel()
