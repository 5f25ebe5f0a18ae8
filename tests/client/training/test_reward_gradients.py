"""A prompt with its answers is one example: one gradient, one clipping norm, whoever else is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.training.cancellation import StoppedError
from client.training.gradients import HookedGradients, losses
from client.training.round_examples import examples_of_round, write_answers
from client.training.sparse_rows import numbers
from client.training.stacked_gradients import StackedGradients
from client.training.step import add_batch
from client.training.sum_check import silent_optimizer
from client.training.together import Share, train_together
from client.training.training import Trainer
from client.training.unit_check import check_privacy_unit
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.training_section import TrainingSection
from tasks.data.written_examples import WrittenExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import random_adapter
from tests.tasks.judged import judged_model, prompts

GAUSSIAN = Mechanism(name="gaussian", multiplier=1.0)
TRAINING = TrainingSection(batch_size=4, physical_batch_size=4, local_steps=2)


@pytest.fixture(scope="module")
def adapted() -> AdaptedModel:
    return judged_model()


@pytest.mark.parametrize("method", [StackedGradients, HookedGradients])
def test_the_unit_check_passes(method: Any) -> None:
    adapted = judged_model(constraint=True)
    check_privacy_unit(method(adapted), adapted.probe())


def test_a_baseline_over_the_batch_is_caught(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mistake: an answer is compared with those to other prompts, so one prompt moves all gradients."""
    monkeypatch.setattr("tasks.rewards.advantages", lambda rewards, _baseline: rewards - rewards.mean())
    with pytest.raises(PrivacyUnitError):
        check_privacy_unit(StackedGradients(adapted), adapted.probe())


def test_a_round_can_end_before_each_answer(adapted: AdaptedModel) -> None:
    """A step has many answers, which take long: a deadline, or an agent that is to stop, waits for one."""
    examples = examples_of_round(
        adapted,
        prompts(adapted),
        adapter=random_adapter(adapted),
        round_number=1,
        entropy=keyed_entropy(3, "answers"),
    )
    told: list[tuple[int, int]] = []

    def between(step: int, steps: int) -> None:
        told.append((step, steps))
        if len(told) == 3:
            raise StoppedError("over")

    with pytest.raises(StoppedError):
        write_answers(examples, np.arange(4), between, step=1, steps=2)
    assert told == [(1, 2)] * 3
    assert isinstance(examples, WrittenExamples)
    assert sorted(examples._known) == [0, 1]


def clipped_sum(adapted: AdaptedModel, indices: list[int], *, bound: float) -> torch.Tensor:
    """What a step without noise releases of these prompts, in clipping norms."""
    adapter = random_adapter(adapted)
    examples = adapted.task.complete(  # type: ignore[attr-defined]
        adapted, prompts(adapted), adapter=adapter, seed=3
    )
    adapted.load(adapter)
    adapted.peft.train()
    optimizer = silent_optimizer(adapted, GAUSSIAN, clipping_norm=bound)
    batch = examples.batch(np.array(indices), size=24, rows=8)
    add_batch(optimizer, StackedGradients(adapted).backward(batch, losses(adapted)), last=True)
    factor = TrainingSection().batch_size / bound
    return torch.cat([p.grad.flatten() * factor for p in adapted.trained.values() if p.grad is not None])


def test_a_prompt_moves_the_sum_by_the_clipping_norm_at_most(adapted: AdaptedModel) -> None:
    whole = clipped_sum(adapted, [0, 1, 2, 3], bound=1e-6)
    for index in range(4):
        rest = clipped_sum(adapted, [other for other in range(4) if other != index], bound=1e-6)
        assert float((whole - rest).norm()) == pytest.approx(1.0, abs=1e-3)


def test_a_prompts_gradient_is_the_same_bits_among_others(adapted: AdaptedModel) -> None:
    adapter = random_adapter(adapted)
    adapted.peft.train()

    def found(indices: list[int]) -> torch.Tensor:
        examples = adapted.task.complete(  # type: ignore[attr-defined]
            adapted, prompts(adapted), adapter=adapter, seed=3
        )
        adapted.load(adapter)
        batch = examples.batch(np.array(indices), size=24, rows=8)
        return numbers(StackedGradients(adapted).backward(batch, losses(adapted)))

    assert torch.equal(found([2])[0], found([0, 3, 2, 1])[2])


def share(adapted: AdaptedModel, number: int, examples: Any) -> Share:
    plan = SampledPlan(mechanism=GAUSSIAN, clipping_norm=0.01, sampling_rate=0.8, steps=2, delta=1e-5)
    return Share(
        adapter=random_adapter(adapted),
        examples=examples,
        plan=plan,
        hidden=False,
        entropy=keyed_entropy(1, f"site-{number}"),
        activations=None,
        between=lambda *_: None,
    )


def test_sites_that_train_together_learn_what_they_learn_alone(adapted: AdaptedModel) -> None:
    trainer = Trainer(StackedGradients(adapted))
    parts = [prompts(adapted), prompts(adapted, (4, 7, 5))]
    shares = [share(adapted, number, part) for number, part in enumerate(parts)]
    together = train_together(trainer, shares, training=TRAINING, round_number=1, rows=8)
    for one, found in zip(shares, together, strict=True):
        single = one.train(trainer, training=TRAINING, round_number=1)
        np.testing.assert_allclose(found, single, atol=2e-5)
        np.testing.assert_array_equal(single, one.train(trainer, training=TRAINING, round_number=1))


def test_all_steps_of_a_round_learn_from_answers_of_its_first_adapter(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the ratio to what was written is not one after a step, and is what is clipped."""
    written: list[NDArray[np.float32]] = []
    real = adapted.task.complete  # type: ignore[attr-defined]

    def complete(model: AdaptedModel, examples: Any, *, adapter: Any, seed: int) -> Any:
        written.append(adapter)
        return real(model, examples, adapter=adapter, seed=seed)

    monkeypatch.setattr(adapted.task, "complete", complete, raising=False)
    one = share(adapted, 0, prompts(adapted))
    one.train(Trainer(StackedGradients(adapted)), training=TRAINING, round_number=1)
    assert len(written) == 1
    np.testing.assert_array_equal(written[0], one.adapter)


def test_rounds_and_sites_draw_from_streams_of_their_own(adapted: AdaptedModel) -> None:
    def targets(site: str, number: int) -> torch.Tensor:
        found = examples_of_round(
            adapted,
            prompts(adapted),
            adapter=random_adapter(adapted),
            round_number=number,
            entropy=keyed_entropy(1, site),
        )
        return found.batch(np.arange(2)).inputs["input_ids"]

    first = targets("a", 1)
    assert torch.equal(first, targets("a", 1))
    assert not torch.equal(first, targets("a", 2))
    assert not torch.equal(first, targets("b", 1))


def test_nothing_is_kept_of_what_is_written_anew(adapted: AdaptedModel) -> None:
    kept = Activations(FrozenPrefix(adapted), prompts(adapted))
    assert not kept.work
    assert kept.nbytes == 0


def test_examples_of_other_tasks_are_what_they_were(adapted: AdaptedModel) -> None:
    class Plain:
        task = object()

    examples = prompts(adapted)
    plain: Any = Plain()
    entropy = keyed_entropy(1, "a")
    found = examples_of_round(
        plain, examples, adapter=random_adapter(adapted), round_number=1, entropy=entropy
    )
    assert found is examples


def test_a_step_goes_where_the_mean_reward_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of one token, drawn evenly: the gradient is that of the reward over all of the vocabulary."""
    answers = 48
    adapted = judged_model(max_answer=1, samples=answers, baseline=0.0, beta=0.0)
    even = (np.arange(answers)[:, None] + 0.5) / answers
    monkeypatch.setattr("tasks.answered_prompts.numbers_for", lambda *_, **__: even)
    adapter, asked = random_adapter(adapted), prompts(adapted, (5,))
    examples = adapted.task.complete(  # type: ignore[attr-defined]
        adapted, asked, adapter=adapter, seed=0
    )
    adapted.load(adapter)
    adapted.peft.train()
    batch = examples.batch(np.arange(1))
    found = numbers(StackedGradients(adapted).backward(batch, losses(adapted)))[0]
    tokenizer = adapted.base.reader.tokenizer
    said = [tokenizer.decode([token]) for token in range(50)]
    rewards = torch.from_numpy(adapted.base.beside.reward.scores(said))
    logits = adapted.peft(input_ids=torch.from_numpy(asked.tokens[None, :5].astype(np.int64))).logits
    expected = torch.autograd.grad(logits[0, -1].softmax(0) @ rewards, list(adapted.trained.values()))
    flat = torch.cat([part.flatten() for part in expected])
    cosine = torch.nn.functional.cosine_similarity(-found.flatten(), flat, dim=0)
    assert float(cosine) > 0.9
    assert float(found.norm() / flat.norm()) == pytest.approx(1.0, abs=0.4)
