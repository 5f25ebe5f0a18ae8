"""What tasks on chat messages have in common: a model with a chat template, and columns of messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from protocol.job.data_section import SourceKeys
from tasks.data.chat import NO_MESSAGES, said_in
from tasks.data.rows import Rows, present
from tasks.language import LanguageTask
from tasks.text import LengthKeys

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.shapes import Sizes
    from tasks.data.token_examples import TokenExamples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel, Pretrained
    from tasks.model.device import Device


class AnswerKeys(LengthKeys):
    """A job's keys: of an example's answers no more than ``max_answer`` tokens are learned; unset: all."""

    max_answer: Annotated[int, Field(ge=1, le=32768)] | None = None


class ChatTask(LanguageTask):
    """A task on what an assistant says, as the tokenizer's own chat template writes it."""

    def wrap(self, loaded: Pretrained, *, section: Any, peft_type: str | None = None) -> BaseModel:
        """A model of transformers' as Confide knows it."""
        base = super().wrap(loaded, section=section, peft_type=peft_type)
        return replace(base, reader=replace(base.reader, max_answer=section.max_answer))

    def needs_base(self, job: Job) -> str | None:
        """Why a job's adapter does not begin as nothing beside the base model, naming the key, or None."""
        if not job.adapter.changes_base and job.adapter.bias == "none":
            return None
        key = "init" if job.adapter.changes_base else "bias"
        usual = "orthonormal" if key == "init" else "none"
        return (
            f'adapter.{key}: expected "{usual}" with task="{self.name}", which compares the model with '
            "what it was before its training"
        )

    def judged(self, content: Any) -> str:
        """All that is said in a row's conversations, line by line."""
        return "\n".join(said_in(content))

    def sizes(self, base: BaseModel, section: LengthKeys) -> Sizes:
        """As of texts, but no batch is narrower than what the template writes around messages."""
        from tasks.data.chat_tokens import template_length

        found = super().sizes(base, section)
        least = template_length(base.reader)
        wide = tuple(size for size in found.public if size >= least)
        return replace(found, public=wide or found.public[-1:])

    def load(self, job: Job, section: Any, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The language model. Raises ModelError for one whose tokenizer has no chat template."""
        from tasks.data.chat_tokens import check_chat

        base = super().load(job, section, labels=labels, device=device)
        check_chat(base.reader.tokenizer, source=job.model.source)
        return base

    def open_reader(self, source: str, columns: Any) -> Any:
        """The tokenizer of a chat model."""
        from tasks.data.chat_tokens import check_chat

        reader = super().open_reader(source, columns)
        check_chat(reader.tokenizer, source=source)
        return reader

    def made_up_answers(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> TokenExamples:
        """Any tokens, of which those in the second half are an answer; the first never is."""
        import numpy as np

        made = self.made_up_texts(adapted, random, sizes)
        most = adapted.spec.data["max_answer"] or adapted.sizes.most
        begins = np.maximum(made.sizes // 2, np.maximum(1, made.sizes - most))
        places = np.arange(len(made.tokens)) - np.repeat(made.offsets[:-1], made.sizes)
        return replace(made, learned=places >= np.repeat(begins, made.sizes))


def read_cells(
    data: SourceKeys,
    columns: Mapping[str, str | None],
    content_of: Callable[[Mapping[str, str | None]], Any],
    *,
    needed: tuple[str, ...],
) -> Rows:
    """What ``content_of`` makes of each row's cells, by the keys whose columns are named; None stays blank.

    Lists in a cell are JSON. A row with all that is ``needed`` whose content is None has no messages, and
    is told so.
    """
    from tasks.data.read_table import read_table

    named = {key: name for key, name in columns.items() if name is not None}
    table = read_table(data, columns=named.values(), nested=set(named.values()))
    cells = [table.column(name, key=f"data.{key}") for key, name in named.items()]
    rows = [dict(zip(named, row, strict=True)) for row in zip(*cells, strict=True)]
    contents = tuple(map(content_of, rows))
    odd = {
        place: NO_MESSAGES
        for place, (row, content) in enumerate(zip(rows, contents, strict=True))
        if content is None and all(present(row[key]) for key in needed if key in row)
    }
    return Rows(contents=contents, faults=odd | table.faults)
