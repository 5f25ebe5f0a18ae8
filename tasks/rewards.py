"""Answers that a public model finds good: policy gradients of what a model writes itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from privacy.errors import ModelError
from protocol.job.data_section import SourceKeys
from tasks.chat_task import ChatTask, read_cells
from tasks.data.chat import ASSISTANT, USER, Conversation, digest_of, read_conversation
from tasks.data.rows import NO_CONTENT, Rows
from tasks.language import tell_answers
from tasks.measures import LOSS
from tasks.reward_keys import PromptColumns, RewardSection
from tasks.reward_outcome import DISTANCE, KEPT, MEAN_REWARD, RewardOutcome
from tasks.task import Encoded, Outcome, Units

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.examples import Batch, Examples
    from tasks.data.shapes import Sizes
    from tasks.data.token_examples import TokenExamples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel, Pretrained
    from tasks.model.device import Device

_HELD_OUT_SEED = 0  # the same numbers each time: what a round changed shows, and not what was drawn


class Rewards(ChatTask):
    """Clipped policy gradients: a prompt with all of its answers is one example, and one row.

    Source: Schulman et al. 2017 (arXiv:1707.06347), eq. 7; the baseline is that of Ahmadian et al. 2024
    (arXiv:2402.14740), and the distance that of Shao et al. 2024 (arXiv:2402.03300), eq. 4.
    """

    name = "rewards"
    about = "answers that a public model finds good"
    units = Units(example="prompt", size="tokens")
    measures = (MEAN_REWARD, DISTANCE, KEPT, LOSS)
    Section = RewardSection
    Columns = PromptColumns
    judges = ("reward", "constraint")

    def refuses(self, job: Job, section: Any) -> str | None:
        """Metrics count right answers, of which there are none; the base model must be there to compare."""
        if job.metrics.epsilon:
            return (
                f'metrics.epsilon: expected 0 with task="{self.name}", whose answers are not right or wrong'
            )
        return self.needs_base(job) or super().refuses(job, section)

    def wrap(self, loaded: Pretrained, *, section: Any, peft_type: str | None = None) -> BaseModel:
        base = super().wrap(loaded, section=section, peft_type=peft_type)
        return replace(base, reader=replace(base.reader, endings=section.samples))

    def load(self, job: Job, section: Any, *, labels: tuple[str, ...], device: Device) -> BaseModel:
        """The language model and its judges, under one digest.

        Raises ModelError for a model that cannot go on with a text, or take several answers in one row.
        """
        from tasks.answered_prompts import Panel
        from tasks.data.chat_tokens import turn_ends
        from tasks.model.drawn_answers import can_go_on
        from tasks.model.forked_pass import can_fork
        from tasks.model.judge import load_judge

        base = super().load(job, section, labels=labels, device=device)
        reader, longest = base.reader, self.longest(base, section)
        base.model.to(device.torch)
        tried: dict[str, Any] = {"padding": reader.padding, "tokens": reader.tokens}
        if not (
            can_fork(base.model, longest=longest, limit=base.limit, **tried)
            and can_go_on(base.model, **tried)
        ):
            raise ModelError(
                f"model.source={job.model.source!r}: expected a model that goes on with a text token by "
                f"token and reads several answers in a row of {longest} tokens; choose another, or lower "
                "data.samples or data.max_answer"
            )
        found = {
            key: load_judge(job, source=keys.source, label=keys.label, key=f"data.{key}", device=device)
            for key in self.judges
            if (keys := getattr(section, key)) is not None
        }
        panel = Panel(reward=found["reward"], constraint=found.get("constraint"), ends=turn_ends(reader))
        parts = {"model": base.digest} | {key: judge.digest for key, judge in found.items()}
        told = "".join(f"{key} {digest}\n" for key, digest in parts.items())
        return replace(base, beside=panel, digest=hashlib.sha256(told.encode()).hexdigest())

    def longest(self, base: BaseModel, section: Any) -> int:  # noqa: ARG002
        """A prompt with all of its answers."""
        most: int = section.max_length + (section.samples - 1) * section.max_answer
        return most

    def sizes(self, base: BaseModel, section: Any) -> Sizes:
        """No row has fewer tokens than its answers may have."""
        found = super().sizes(base, section)
        least = found.least + section.samples * section.max_answer
        wide = tuple(size for size in found.public if size >= least)
        return replace(found, least=least, public=wide or found.public[-1:])

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """Prompts; None where a row has none."""
        named = {key: getattr(columns, key) for key in PromptColumns.model_fields}
        return read_cells(data, named, _content, needed=tuple(named))

    def one_row_an_example(self, columns: Any) -> bool:  # noqa: ARG002
        """A prompt is answered several times."""
        return False

    def digest(self, content: Any) -> bytes:
        """SHA-256 of who says what in the prompt, 32 bytes."""
        return digest_of(content or ())

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:  # noqa: ARG002
        """Each prompt by itself, as the chat template writes it, with places for its answers."""
        from tasks.data.chat_tokens import encode_prompt, encoded, joined

        found = [
            None if content is None else encode_prompt(reader, content[0]) for content in rows.contents
        ]
        examples = joined(found, padding=reader.padding)
        return encoded(examples, [NO_CONTENT if one is None else one.why for one in found])

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Prompts and answers of any tokens, with rewards and likelihoods that nobody found."""
        import numpy as np

        section = adapted.spec.data
        answers, most = section["samples"], section["max_answer"]
        made = self.made_up_texts(adapted, random, sizes)
        places = np.arange(len(made.tokens)) - np.repeat(made.offsets[:-1], made.sizes)
        slots = places - np.repeat(made.sizes - answers * most, made.sizes)
        lengths = random.integers(1, most + 1, (len(sizes), answers))
        learned = (np.arange(most) < lengths[..., None]).reshape(-1)
        told = np.log(adapted.base.reader.tokens) * random.uniform(
            -1.5, -0.5, (len(sizes), 2, answers * most)
        )
        told *= learned.reshape(len(sizes), 1, -1)
        judged = random.uniform(0, 1, (len(sizes), 2 * answers))
        everything = np.zeros(len(made.tokens), bool)
        everything[slots >= 0] = learned
        return replace(
            made,
            learned=everything,
            branches=np.where(slots < 0, 0, slots // most + 1).astype(np.int8),
            targets=np.concatenate([judged, told.reshape(len(sizes), -1)], axis=1).astype(np.float32),
        )

    def complete(
        self, adapted: AdaptedModel, examples: Examples, *, adapter: NDArray[np.float32], seed: int
    ) -> Examples:
        """Prompts with the answers that the model gives with ``adapter``, written when they are drawn.

        Each is written by itself, from numbers of its own. One that the model fails on has scores that are
        no numbers, and so contributes nothing.
        """
        from tasks.answered_prompts import answered_or_blank
        from tasks.data.token_examples import TokenExamples
        from tasks.data.written_examples import WrittenExamples

        if not isinstance(examples, TokenExamples):
            raise TypeError(f"expected prompts as tokens, got {type(examples).__name__}")

        def write(places: Sequence[int]) -> list[TokenExamples]:
            held, training = adapted.now(), adapted.peft.training
            adapted.load(adapter)
            adapted.peft.eval()
            try:
                return [answered_or_blank(adapted, examples, place, seed=seed) for place in places]
            finally:
                adapted.load(held)
                adapted.peft.train(training)

        return WrittenExamples(examples, write)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> Outcome:
        """The loss of each prompt whose answers are written; else what answers of now are worth."""
        import torch

        from tasks.answered_prompts import parts_of

        if "targets" not in batch.inputs:
            return self._judge(adapted, batch)
        section = adapted.spec.data
        answers, most = section["samples"], section["max_answer"]
        nats, counted = tell_answers(adapted, batch, endings=answers, most=most)
        scores, kept, before, base = parts_of(batch.inputs["targets"], answers, most)
        gains = advantages(worth(scores, kept, section["constraint"]), section["baseline"]).unsqueeze(2)
        ratios = (-nats - before).exp()
        near = ratios.clamp(1 - section["clip"], 1 + section["clip"])
        value = torch.minimum(ratios * gains, near * gains)
        value = value - section["beta"] * distances(base + nats)
        losses = -(value * counted).sum((1, 2)) / (answers * most)
        counts = torch.ones(len(batch), dtype=torch.long, device=losses.device)
        return Outcome(losses=losses, correct=torch.zeros_like(counts), counted=counts)

    def _judge(self, adapted: AdaptedModel, batch: Batch) -> RewardOutcome:
        """What the loaded adapter's answers to prompts are worth. Blank rows are worth nothing."""
        import torch

        from tasks.answered_prompts import answered, parts_of

        section = adapted.spec.data
        answers, most = section["samples"], section["max_answer"]
        found = torch.zeros(3, len(batch))
        for row, place in enumerate(batch.indices.tolist()):
            real = batch.inputs["attention_mask"][row] * (batch.inputs["branches"][row] == 0)
            prompt = batch.inputs["input_ids"][row][real > 0].cpu().numpy().astype("int32")
            one = answered(adapted, prompt, place=place, seed=_HELD_OUT_SEED)
            scores, kept, before, base = parts_of(torch.from_numpy(one.targets), answers, most)
            apart = distances(base - before).sum(2)  # both are zero where nothing was drawn
            found[:, row] = torch.stack([part.mean() for part in (scores, apart, kept)])
        rewards, apart, kept = found.to(adapted.device.torch)
        penalty = section["constraint"]["penalty"] if section["constraint"] else 0.0
        counts = torch.ones(len(batch), dtype=torch.long, device=rewards.device)
        return RewardOutcome(
            losses=section["beta"] * apart / most - rewards + penalty * (1 - kept),
            correct=torch.zeros_like(counts),
            counted=counts,
            rewards=rewards,
            distances=apart,
            kept=kept,
        )


def _content(cells: Mapping[str, str | None]) -> tuple[Conversation] | None:
    if "prompt" in cells:
        found = read_conversation(cells["prompt"], role=USER)
        return (found,) if found else None
    found = read_conversation(cells["messages"])
    while found and found[-1][0] == ASSISTANT:
        found = found[:-1]
    return (found,) if found else None


def worth(scores: torch.Tensor, kept: torch.Tensor, constraint: Mapping[str, Any] | None) -> torch.Tensor:
    """What each answer is worth, float32[b, answers]: its score, less the penalty of the constraint."""
    return scores if constraint is None else scores - constraint["penalty"] * (1 - kept)


def advantages(rewards: torch.Tensor, baseline: float | str) -> torch.Tensor:
    """Of answers' rewards, float32[b, answers], how much more each is than its baseline.

    That is a number, or the mean of the other answers to the same prompt: it comes from one example alone.
    """
    if not isinstance(baseline, str):
        return rewards - baseline
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def distances(apart: torch.Tensor) -> torch.Tensor:
    """What each token adds to the distance from the base model, of how much likelier that finds it in nats.

    It is never negative, and on average over the model's own tokens it is the Kullback-Leibler divergence.
    """
    return apart.exp() - apart - 1


TASK = Rewards()
