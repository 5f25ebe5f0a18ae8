"""Conversations: what the assistant says, from all that is said before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

from pydantic import Field, model_validator

from protocol.job.data_section import SourceKeys
from protocol.plain_text import Word
from tasks.chat_task import AnswerKeys, ChatTask, read_cells
from tasks.data.chat import ASSISTANT, USER, Conversation, digest_of, read_conversation
from tasks.data.rows import NO_CONTENT, Rows, present
from tasks.language import token_outcome
from tasks.measures import ANSWER_PERPLEXITY, ANSWER_TOKEN_ACCURACY
from tasks.task import Encoded, TaskKeys, Units

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.answers import Answer
    from tasks.data.examples import Batch, Examples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.task import Outcome

# What is said before, and then what is learned of: the assistant's turns in the second part.
Content: TypeAlias = tuple[Conversation, Conversation]

_PACKED = (
    "packing: expected none: an example that shares a row with others shares its gradient with them, and "
    "what is protected is one example; batches hold conversations of like sizes, so little is padding"
)


class InstructionColumns(TaskKeys):
    """The columns of conversations: ``messages``, or ``prompt`` and ``completion``.

    ``input`` is what a prompt is about, where that has a column of its own, as in Alpaca's data.
    """

    messages: Word | None = None
    prompt: Word | None = None
    input: Word | None = None
    completion: Word | None = None

    @model_validator(mode="before")
    @classmethod
    def _unpacked(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("packing"):
            raise ValueError(_PACKED)
        return value

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        pair = (self.prompt is not None, self.completion is not None)
        if (self.messages is None) != all(pair) or (self.messages is not None and any(pair)):
            raise ValueError(
                "messages: expected the column of chat messages, or else prompt and completion with the "
                "columns of both"
            )
        if self.input is not None and self.prompt is None:
            raise ValueError("input: expected none without prompt, to which it is added")
        return self


class InstructionSection(AnswerKeys, InstructionColumns):
    """A job's keys: ``answers`` is how many held-out prompts the model answers in the report."""

    answers: Annotated[int, Field(ge=0, le=256)] = 16


class Instruction(ChatTask):
    """The tokens of the assistant's turns, by the chat template that the tokenizer has."""

    name = "instruction"
    about = "what an assistant answers"
    units = Units(example="conversation", size="tokens")
    measures = (ANSWER_PERPLEXITY, ANSWER_TOKEN_ACCURACY)
    Section = InstructionSection
    Columns = InstructionColumns

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """Conversations; None where a row has none, or where its messages are none."""
        named = {key: getattr(columns, key) for key in InstructionColumns.model_fields}
        return read_cells(data, named, _content, needed=("messages", "prompt", "completion"))

    def digest(self, content: Any) -> bytes:
        """SHA-256 of who says what, 32 bytes, whichever columns it is written in."""
        return digest_of(content or ())

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:  # noqa: ARG002
        """Each conversation by itself, as the chat template writes it, cut after the longest that is taken.

        One of which no answer's token is left is blank.
        """
        from tasks.data.chat_tokens import encode_answers, encoded, joined

        found = encode_answers(reader, rows.contents)
        examples = joined(found, padding=reader.padding)
        return encoded(examples, [NO_CONTENT if one is None else one.why for one in found])

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Any tokens, of which those in the second half are an answer."""
        return self.made_up_answers(adapted, random, sizes)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """Cross-entropy, a mean over the tokens of the assistant's turns."""
        most = adapted.spec.data["max_answer"]
        return token_outcome(adapted, batch, batch.inputs["learned"], most=most)

    def shown(self, section: InstructionSection) -> int:
        return section.answers

    def answer(self, adapted: AdaptedModel, examples: Examples, *, seed: int) -> Sequence[Answer]:
        """What the model says where each conversation has its last answer."""
        from tasks.model.held_out_answers import answer_last

        return answer_last(adapted, examples, seed=seed)


def _content(cells: Mapping[str, str | None]) -> Content | None:
    if "messages" in cells:
        said = read_conversation(cells["messages"])
        return None if said is None else ((), said)
    prompt = read_conversation(cells["prompt"], role=USER)
    answers = read_conversation(cells["completion"], role=ASSISTANT)
    if prompt is None or answers is None:
        return None
    more = present(cells.get("input"))
    if more is not None:
        role, text = prompt[-1]
        prompt = (*prompt[:-1], (role, f"{text}\n\n{more}"))
    return prompt, answers


TASK = Instruction()
