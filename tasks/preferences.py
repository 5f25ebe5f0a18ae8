"""Pairs of answers to one prompt: which of the two is better, learned without a model of rewards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from protocol.job.data_section import SourceKeys
from protocol.plain_text import Word
from tasks.chat_task import AnswerKeys, ChatTask, read_cells
from tasks.data.chat import ASSISTANT, USER, Conversation, digest_of, read_conversation
from tasks.data.rows import NO_CONTENT, Rows
from tasks.language import rows_of, tell_endings, tell_tokens
from tasks.measures import LOSS, PREFERENCE, REWARD_MARGIN
from tasks.task import Encoded, Outcome, TaskKeys, Units

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch, Examples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

# The prompt, the answer that is preferred, and the other.
Content: TypeAlias = tuple[Conversation, Conversation, Conversation]

NO_DIFFERENCE = "both answers are the same"


class PreferenceColumns(TaskKeys):
    """The columns of pairs. Without ``prompt``, both others hold whole conversations, which begin alike."""

    prompt: Word | None = None
    chosen: Word = "chosen"
    rejected: Word = "rejected"


class PreferenceSection(AnswerKeys, PreferenceColumns):
    """A job's keys. ``beta`` is how hard the model is held to what it said before."""

    loss: Literal["dpo", "ipo"] = "dpo"
    beta: Annotated[float, Field(ge=1e-4, le=100)] = 0.1


@dataclass(frozen=True, kw_only=True)
class PairOutcome(Outcome):
    """``margins``, float32[b]: how much more reward the preferred answer has, β times nats."""

    margins: torch.Tensor

    def sums(self) -> dict[str, float]:
        return super().sums() | {"margins": float(self.margins.double().sum())}


class Preferences(ChatTask):
    """Direct preference optimization: a pair is one example.

    It is one row with two endings, or, where the model cannot read that, two rows.
    Source: Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; Azar et al. 2023 (arXiv:2310.12036), eq. 17.
    """

    name = "preferences"
    about = "which of two answers is better"
    units = Units(example="pair", size="tokens")
    measures = (PREFERENCE, LOSS, REWARD_MARGIN)
    Section = PreferenceSection
    Columns = PreferenceColumns

    def refuses(self, job: Job, section: Any) -> str | None:
        """The reference is what training began with, which is no part of the base model's own weights."""
        return self.needs_base(job) or super().refuses(job, section)

    def load(self, job: Job, section: Any, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The language model, and whether it reads both answers after one prompt."""
        from tasks.data.forked_rows import longest_fork
        from tasks.model.forked_pass import can_fork

        base = super().load(job, section, labels=labels, device=device)
        reader = base.reader
        longest = longest_fork(section.max_length, section.max_answer)
        forks = can_fork(
            base.model, padding=reader.padding, tokens=reader.tokens, longest=longest, limit=base.limit
        )
        return replace(base, reader=replace(reader, forks=forks))

    def longest(self, base: BaseModel, section: Any) -> int:
        """How many tokens a row has at most."""
        from tasks.data.forked_rows import longest_fork

        if not base.reader.forks:
            return super().longest(base, section)
        return longest_fork(section.max_length, section.max_answer)

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """Pairs; None where a row has none, or answers to two prompts."""
        named = {key: getattr(columns, key) for key in PreferenceColumns.model_fields}
        return read_cells(data, named, _content, needed=tuple(named))

    def one_row_an_example(self, columns: Any) -> bool:  # noqa: ARG002
        """A pair is two rows of the model's."""
        return False

    def digest(self, content: Any) -> bytes:
        """SHA-256, 32 bytes; which answer is preferred does not count, as a label does not."""
        if content is None:
            return digest_of(())
        prompt, *answers = content
        parts = [digest_of((prompt,)), *sorted(digest_of((answer,)) for answer in answers)]
        return hashlib.sha256(b"".join(parts)).digest()

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:  # noqa: ARG002
        """Each pair by itself, as the chat template writes it; one with a blank answer is blank."""
        from tasks.data.chat_tokens import encode_answers, encoded, joined
        from tasks.data.forked_rows import fork, longest_fork, trimmed
        from tasks.data.grouped_examples import GroupedExamples

        first, second = (
            [
                trimmed(one) if one is not None and one.why is None else one
                for one in encode_answers(
                    reader, [None if c is None else (c[0], c[answer]) for c in rows.contents]
                )
            ]
            for answer in (1, 2)
        )
        reasons: list[str | None] = []
        for one, other in zip(first, second, strict=True):
            if one is None or other is None:
                reasons.append(NO_CONTENT)
            elif one.why is None and other.why is None and _alike(one.tokens, other.tokens):
                reasons.append(NO_DIFFERENCE)
            else:
                reasons.append(one.why or other.why)
        pairs = [
            (one, other) if why is None and one is not None and other is not None else None
            for why, one, other in zip(reasons, first, second, strict=True)
        ]
        if reader.forks:
            longest = longest_fork(reader.max_length, reader.max_answer)
            forks = [None if pair is None else fork(*pair, most=longest) for pair in pairs]
            return encoded(joined(forks, padding=reader.padding), reasons)
        each = joined([one for pair in pairs for one in pair or (None, None)], padding=reader.padding)
        return encoded(GroupedExamples(rows=each, together=2), reasons)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Pairs of any tokens, of which the second has fewer, if there may be."""
        import numpy as np

        from tasks.data.forked_rows import made_up_forks
        from tasks.data.grouped_examples import GroupedExamples

        reader = adapted.base.reader
        if reader.forks:
            made = self.made_up_texts(adapted, random, sizes)
            more = made_up_forks(sizes, max_length=reader.max_length, max_answer=reader.max_answer)
            return replace(made, **more)
        less = np.maximum(np.minimum(adapted.sizes.least, sizes), sizes - sizes // 3)
        both = np.stack([sizes, less], axis=1).reshape(-1)
        return GroupedExamples(rows=self.made_up_answers(adapted, random, both), together=2)

    def reference(self, adapted: AdaptedModel, batch: Batch) -> torch.Tensor:
        """The log-probabilities of both answers before training, float32[b, 2].

        They are the base model's, or with ``training.warm_start`` those of the base model with the adapter
        that the run began with: what π_ref is in eq. 7. That adapter is public, and no round moves it.
        """
        import torch

        with torch.no_grad(), adapted.as_it_began():
            return _log_probabilities(adapted, batch)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> PairOutcome:
        """The loss of each pair. Right is a pair of which the preferred answer is the likelier one."""
        import torch
        from torch.nn import functional

        known = batch.inputs.get("reference")
        reference = self.reference(adapted, batch) if known is None else known
        now = _log_probabilities(adapted, batch)
        gained = now - reference
        apart = gained[:, 0] - gained[:, 1]
        section = adapted.spec.data
        margins = section["beta"] * apart
        if section["loss"] == "ipo":
            losses = (apart - 1 / (2 * section["beta"])) ** 2
        else:
            losses = -functional.logsigmoid(margins)
        right = (now[:, 0] > now[:, 1]).long()
        return PairOutcome(
            losses=losses, correct=right, counted=torch.ones_like(right), margins=margins.detach()
        )


def _log_probabilities(adapted: AdaptedModel, batch: Batch) -> torch.Tensor:
    """Of both answers of each pair, float32[b, 2]: sums over tokens that they do not both begin with."""
    most = adapted.spec.data["max_answer"]
    if "branches" in batch.inputs:
        return -tell_endings(adapted, batch, most=most)
    told = tell_tokens(adapted, batch, rows_of(batch.inputs["learned"]), most=most)
    return -told.nats.sum(1).reshape(-1, batch.rows_an_example)


def _content(cells: Mapping[str, str | None]) -> Content | None:
    if "prompt" in cells:
        prompt = read_conversation(cells["prompt"], role=USER)
        chosen, rejected = (read_conversation(cells[key], role=ASSISTANT) for key in ("chosen", "rejected"))
    else:
        whole = [read_conversation(cells[key]) for key in ("chosen", "rejected")]
        if whole[0] is None or whole[1] is None:
            return None
        shared = 0
        while shared < min(map(len, whole)) and whole[0][shared] == whole[1][shared]:  # type: ignore[arg-type]
            shared += 1
        prompt, chosen, rejected = whole[0][:shared], whole[0][shared:], whole[1][shared:]
    if not prompt or not chosen or not rejected:
        return None
    return prompt, chosen, rejected


def _alike(first: NDArray[np.int32], second: NDArray[np.int32]) -> bool:
    return len(first) == len(second) and bool((first == second).all())


TASK = Preferences()
