"""Texts and their labels: which of a few labels a text has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.errors import DataError
from tasks.label_outcome import CLASSIFIER, LabelOutcome
from tasks.labelled_keys import refuses_labels
from tasks.measures import Measure
from tasks.task import Outcome
from tasks.text import TextSection, TextTask

if TYPE_CHECKING:
    import torch

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
    labelled, headed = True, True
    pipeline = "text-classification"
    measures: tuple[Measure, ...] = CLASSIFIER

    def refuses(self, job: Job, section: TextSection) -> str | None:
        """A classifier needs labels, and private data may not be what tells them."""
        return refuses_labels(job, section, task=self.name)

    def load(self, job: Job, section: TextSection, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The encoder with a head whose last layer is trained: from zero, or as the checkpoint has it."""
        from tasks.model.base_model import load_pretrained
        from tasks.model.classifier import Classifier

        purpose = Classifier(
            labels=labels, mean=job.model.pooling == "mean", trained=job.model.head == "checkpoint"
        )
        loaded = load_pretrained(job, purpose=purpose, labels=labels, device=device)
        return self.wrap(loaded, section=section)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Cross-entropy of the label."""
        labels = batch.inputs.get("labels")
        if labels is None:
            raise DataError("expected labelled examples for a classification task, got none")
        return LabelOutcome.of(self.logits(adapted, batch), labels)

    def logits(self, adapted: AdaptedModel, batch: Batch) -> torch.Tensor:
        """What the head says of each text: float32[b, outputs]."""
        mask = batch.inputs["attention_mask"]
        with adapted.device.autocast():
            found = adapted.peft(input_ids=batch.inputs["input_ids"], attention_mask=mask).logits
        logits: torch.Tensor = found.float()
        if adapted.spec.model.pooling == "mean":
            weight = mask.unsqueeze(-1).to(logits.dtype)
            logits = (logits * weight).sum(1) / weight.sum(1)
        return logits


TASK = SequenceClassification()
