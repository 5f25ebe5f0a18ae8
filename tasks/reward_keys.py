"""What a job says of answers that a model is rewarded for, and what is refused of it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from protocol.plain_text import Label, Place, Word, quoted
from tasks.task import TaskKeys
from tasks.text import LengthKeys

OTHERS = "others"


class PromptColumns(TaskKeys):
    """The column of prompts, or of whole conversations, whose last answer is left out."""

    prompt: Word | None = None
    messages: Word | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("prompt: expected either prompt or messages, with the name of a column")
        return self


class JudgeKeys(TaskKeys):
    """A classifier, and which of its labels is good; none for one with a single output."""

    source: Place
    label: Label | None = None
    reads: Literal["answer", "whole"] = "answer"


class ConstraintKeys(JudgeKeys):
    """A classifier whose score must not be below ``least``, or the reward is less by ``penalty``."""

    least: Annotated[float, Field(ge=-1000, le=1000)]
    penalty: Annotated[float, Field(ge=0, le=1000)] = 1.0


class RewardSection(LengthKeys, PromptColumns):
    """A job's keys: each prompt is answered ``samples`` times, by up to ``max_answer`` tokens.

    ``clip`` is how far an answer's likelihood may move in a round before it counts no more, and ``beta``
    how hard the model is held to what it said before.
    """

    reward: JudgeKeys
    constraint: ConstraintKeys | None = None
    max_answer: Annotated[int, Field(ge=1, le=1024)] = 16
    samples: Annotated[int, Field(ge=1, le=64)] = 4
    baseline: Annotated[float, Field(ge=-1000, le=1000)] | str = OTHERS
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    beta: Annotated[float, Field(ge=0, le=100)] = 0.05

    @model_validator(mode="after")
    def _of_one_example(self) -> Self:
        if isinstance(self.baseline, str) and self.baseline != OTHERS:
            raise ValueError(
                f'baseline: expected "{OTHERS}", the other answers to the same prompt, or a number, got '
                f"{quoted(self.baseline)}: a mean over other examples would leave none with a gradient of "
                "its own that could be clipped"
            )
        if self.baseline == OTHERS and self.samples == 1:
            raise ValueError(
                f'baseline: expected a number with samples = 1, which has no other answers, got "{OTHERS}"'
            )
        if self.max_length < self.max_answer + 2:
            raise ValueError(
                f"max_answer: expected at most {self.max_length - 2}, which leaves a prompt two tokens of "
                f"max_length = {self.max_length}, got {self.max_answer}"
            )
        return self
