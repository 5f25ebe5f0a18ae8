"""Texts and their labels: which of a few labels a text has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.errors import DataError, ModelError
from tasks.measures import ACCURACY, LOSS
from tasks.task import Outcome
from tasks.text import TextSection, TextTask

if TYPE_CHECKING:
    from protocol.job.job import Job
    from tasks.data.examples import Batch
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device


class SequenceClassification(TextTask):
    """A text's label: transformers' classifiers, or the mean of what a token classifier says of its tokens.

    A linear head on the mean of the tokens is the mean of that head on the tokens, so with
    ``model.pooling = "mean"`` the exported model needs no class that transformers does not have.
    """

    name = "sequence-classification"
    about = "which of a few labels a text has"
    labelled = True
    measures = (ACCURACY, LOSS)

    def refuses(self, job: Job, section: TextSection) -> str | None:
        """A classifier needs labels, and private data may not be what tells them."""
        if section.label is None:
            return 'data.label: expected a column name for task="sequence-classification"'
        if section.labels is None and job.privacy.protects:
            return (
                "data.labels: expected the list of labels: reading it off private data would tell a label "
                "that only one example has"
            )
        return None

    def load(self, job: Job, section: TextSection, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The encoder with a head that starts at zero, so that every site starts from the same one."""
        from torch import nn

        from tasks.model.base_model import head_names, load_pretrained

        mean = job.model.pooling == "mean"
        kind = "AutoModelForTokenClassification" if mean else "AutoModelForSequenceClassification"

        def prepare(model: nn.Module) -> None:
            names = head_names(model)
            if not names:
                raise ModelError(
                    f"model.source={job.model.source!r} has no classification head named classifier or "
                    "score: choose another model or task"
                )
            for name in names:
                for parameter in model.get_submodule(name).parameters():
                    nn.init.zeros_(parameter)

        loaded = load_pretrained(job, kind=kind, labels=labels, device=device, prepare=prepare)
        return self.wrap(
            loaded.model,
            tokenizer=loaded.tokenizer,
            digest=loaded.digest,
            section=section,
            peft_type="TOKEN_CLS" if mean else "SEQ_CLS",
        )

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Cross-entropy of the label."""
        import torch
        from torch.nn import functional

        labels, mask = batch.inputs.get("labels"), batch.inputs["attention_mask"]
        if labels is None:
            raise DataError("expected labelled examples for a classification task, got none")
        with adapted.device.autocast():
            logits = adapted.peft(input_ids=batch.inputs["input_ids"], attention_mask=mask).logits
        logits = logits.float()
        if adapted.spec.model.pooling == "mean":
            weight = mask.unsqueeze(-1).to(logits.dtype)
            logits = (logits * weight).sum(1) / weight.sum(1)
        answers = logits.argmax(-1)
        return Outcome(
            losses=functional.cross_entropy(logits, labels, reduction="none"),
            correct=(answers == labels).long(),
            counted=torch.ones_like(labels),
            answers=answers,
        )


TASK = SequenceClassification()
