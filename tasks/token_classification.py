"""Words and their labels: which of a few labels each word of a text has, such as what it names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from privacy.errors import ModelError
from protocol.job.data_section import SourceKeys
from tasks.data.rows import Rows
from tasks.label_outcome import AUC, BALANCED_ACCURACY, BRIER, CALIBRATION, MACRO_F1, LabelOutcome
from tasks.labelled_keys import DeclaredLabels, refuses_dealing, refuses_labels
from tasks.measures import LOSS, WORD_ACCURACY
from tasks.task import Encoded
from tasks.text import TextKeys, TextSection, TextTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch, Examples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device


class WordColumns(TextKeys, DeclaredLabels):
    """A site's keys: words with labels."""


class TokenClassification(TextTask):
    """A document is one example: its loss is the mean over its words, however many it has.

    A word's label is learned and told at the first of its tokens. ``data.text`` is a column of words, and
    ``data.label`` one of as many labels: lists, or texts in which spaces part them.
    """

    name = "token-classification"
    about = "which of a few labels each word of a text has"
    labelled, headed = True, True
    pipeline = "token-classification"
    measures = (MACRO_F1, WORD_ACCURACY, BALANCED_ACCURACY, AUC, BRIER, CALIBRATION, LOSS)
    Columns = WordColumns

    def refuses(self, job: Job, section: TextSection) -> str | None:
        """Labels are declared, and documents with many cannot be dealt out by them."""
        if job.model.pooling != "model":
            return f'model.pooling: expected "model" with task="{self.name}", which classifies each word'
        found = refuses_dealing(job, section, task=self.name, have="have one a word")
        return found or refuses_labels(job, section, task=self.name)

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """Each row's words, and their labels; None where these are not as many as the words."""
        from tasks.data.read_table import read_table
        from tasks.data.word_tokens import words_in

        names = [columns.text, columns.label]
        table = read_table(data, columns=names, nested=names)
        documents, labels = (
            tuple(map(words_in, table.column(getattr(columns, key), key=f"data.{key}")))
            for key in ("text", "label")
        )
        faults = table.faults
        told: list[tuple[str, ...] | None] = []
        for row, (words, own) in enumerate(zip(documents, labels, strict=True)):
            fit = words is None or own is None or len(words) == len(own)
            told.append(own if fit else None)
            if not fit:
                faults.setdefault(row, "a label for each word, and no more, is not there")
        return Rows(contents=documents, labels=tuple(told), faults=faults)

    def judged(self, content: Any) -> str:
        """The words as a text."""
        return " ".join(content)

    def digest(self, content: Any) -> bytes:
        """SHA-256 of the words as a text, 32 bytes: the same text of another task is the same example."""
        return super().digest(" ".join(content or ()))

    def load(self, job: Job, section: TextSection, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The model with a head on each token. Raises ModelError for a tokenizer that loses words."""
        from tasks.model.base_model import load_pretrained
        from tasks.model.classifier import Classifier

        purpose = Classifier(labels=labels, mean=True, trained=job.model.head == "checkpoint")
        loaded = load_pretrained(job, purpose=purpose, labels=labels, device=device)
        if not loaded.tokenizer.is_fast:
            raise ModelError(
                f"model.source={job.model.source!r}: expected a tokenizer with a tokenizer.json for "
                f'task="{self.name}": this one does not tell which token is of which word'
            )
        return self.wrap(loaded, section=section)

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """Each document's tokens, with the number of its word's label at each word's first one."""
        from tasks.data.word_tokens import tokenize_words

        known = {label: number for number, label in enumerate(labels)}
        numbers = [
            None if own is None or not known.keys() >= set(own) else [known[label] for label in own]
            for own in rows.labels or ()
        ]
        return tokenize_words(reader, documents=rows.contents, labels=numbers)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Texts of any tokens, of which each third has a label, and so has the first."""
        import numpy as np

        from tasks.data.token_examples import UNTOLD

        texts = self.made_up_texts(adapted, random, sizes)
        labels = random.integers(0, adapted.peft.config.num_labels, len(texts.tokens))
        told = random.integers(0, 3, len(labels)) == 0
        told[texts.offsets[:-1]] = True  # none of them is blank
        return replace(texts, labels=None, token_labels=np.where(told, labels, UNTOLD))

    def forward(self, adapted: AdaptedModel, batch: Batch) -> LabelOutcome:
        """The mean cross-entropy of the labels of each document's words."""
        from torch.nn import functional

        labels, mask = batch.inputs["token_labels"], batch.inputs["attention_mask"]
        with adapted.device.autocast():
            logits = adapted.peft(input_ids=batch.inputs["input_ids"], attention_mask=mask).logits
        logits, told = logits.float(), labels >= 0
        nats = functional.cross_entropy(logits.transpose(1, 2), labels.clamp(min=0), reduction="none")
        counted = told.long().sum(1)
        return LabelOutcome(
            losses=(nats * told).sum(1) / counted,
            correct=((logits.argmax(-1) == labels) & told).long().sum(1),
            counted=counted,
            logits=logits.flatten(0, 1),
            labels=labels.flatten(),
        )


TASK = TokenClassification()
