"""A pair of answers is one example of two rows: one gradient, one clipping norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.training.gradient_check import check_gradients, comparable
from client.training.gradients import HookedGradients, OneByOne, PerExampleGradients, alone, losses
from client.training.sparse_rows import dense
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
from protocol.job.job import TrainingSection
from tasks.data.grouped_examples import GroupedExamples
from tasks.data.joint_examples import JointExamples
from tasks.data.shapes import Shapes
from tasks.data.token_examples import TokenExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import adapt, gpt2, llama, make_job, random_adapter

TARGETS = {llama: ("q_proj", "v_proj"), gpt2: ("c_attn",)}
GAUSSIAN = Mechanism(name="gaussian", multiplier=1.0)


def model(build: Any = llama, *, layers: int = 2, **sections: Any) -> AdaptedModel:
    job = make_job(targets=TARGETS[build], task="preferences", **sections)
    return adapt(build(layers=layers), job)


def pairs(adapted: AdaptedModel, sizes: tuple[int, ...] = (4, 7, 10, 6)) -> GroupedExamples:
    random = np.random.Generator(np.random.PCG64(3))
    found = adapted.task.made_up(adapted, random, np.array(sizes, np.int64))
    assert isinstance(found, GroupedExamples)
    return found


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake: what Opacus finds for each answer of a pair is taken for an example of its own."""
    monkeypatch.setattr("client.training.gradients.added_up", lambda gradients, _: gradients)
    monkeypatch.setattr(
        "client.training.gradients.of_examples", lambda _name, gradients, *_, **__: gradients
    )


@pytest.mark.parametrize("build", TARGETS)
@pytest.mark.parametrize("method", [HookedGradients, OneByOne])
def test_a_pairs_gradient_is_that_of_the_pair_alone(build: Any, method: type[PerExampleGradients]) -> None:
    adapted = model(build)
    examples = pairs(adapted)
    with comparable(adapted):
        check_gradients(method(adapted), examples)


def test_stacked_weights_find_the_same_to_rounding() -> None:
    adapted = model()
    examples, loss = pairs(adapted), losses(adapted)
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    found = dense(StackedGradients(adapted).backward(examples.batch(np.arange(4), rows=6), loss))
    for index in range(4):
        single = alone(adapted, examples.batch(np.array([index])), loss)
        for name, gradient in single.items():
            assert gradient is not None
            torch.testing.assert_close(found[name][index], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.exhaustive(but=3)
@pytest.mark.parametrize("method", [StackedGradients, HookedGradients])
@pytest.mark.parametrize("strategy", ["fedit", "fedsvd", "fedsb", "flora"])
def test_the_unit_check_passes(method: Any, strategy: str) -> None:
    adapted = model(strategy={"name": strategy}, aggregation={"kind": "none"})
    check_privacy_unit(method(adapted), adapted.probe())


def moved_by_one_pair() -> float:
    """What the clipped sum moves by, in clipping norms, for a pair whose answers pull the same way.

    Where but two tokens are likely, what makes one likelier makes the other less so: a model that should
    prefer one to the other goes the same way for both answers.
    """
    adapted, bound = model(), 1e-6
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    with torch.no_grad():
        adapted.peft.get_base_model().lm_head.weight.mul_(4.0)
        logits = adapted.peft(input_ids=torch.arange(1, 50)[:, None]).logits[:, 0]
    likely, tokens = logits.softmax(-1).topk(2)
    most = int(likely.sum(1).argmax())
    rows = TokenExamples(
        tokens=np.array([[most + 1, token] for token in tokens[most].tolist()], np.int32).reshape(-1),
        offsets=np.array([0, 2, 4]),
        labels=None,
        learned=np.array([False, True] * 2),
    )
    batch = GroupedExamples(rows=rows, together=2).batch(np.arange(1))
    optimizer = silent_optimizer(adapted, GAUSSIAN, clipping_norm=bound)
    add_batch(optimizer, HookedGradients(adapted).backward(batch, losses(adapted)), last=True)
    released = [p.grad * (TrainingSection().batch_size / bound) for p in adapted.trained.values()]
    return float(torch.cat([part.flatten() for part in released]).norm())


def test_a_pair_moves_the_sum_by_the_clipping_norm() -> None:
    assert moved_by_one_pair() == pytest.approx(1.0, abs=1e-3)


def test_answers_clipped_apart_move_it_by_twice_as_much_and_are_caught(apart: None) -> None:
    assert moved_by_one_pair() == pytest.approx(2.0, abs=0.05)
    adapted = model()
    with pytest.raises(PrivacyUnitError):
        check_privacy_unit(HookedGradients(adapted), pairs(adapted))


def test_rows_that_are_not_added_up_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = model()
    monkeypatch.setattr("client.training.gradients.added_up", lambda gradients, _: gradients)
    with pytest.raises(PrivacyUnitError, match="for 6 rows in a batch of 3 examples"):
        check_privacy_unit(HookedGradients(adapted), adapted.probe())


def test_kept_activations_and_references_change_nothing_but_time() -> None:
    adapted = model(layers=3, adapter={"layers_to_transform": [2]})
    examples = pairs(adapted)
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    kept = Activations(FrozenPrefix(adapted), examples)
    assert kept.work
    asked = []
    reference = adapted.task.reference  # type: ignore[attr-defined]
    shapes = Shapes.of_one_height(6, sizes=(8, 16))
    kept.fill(np.arange(4), shapes)
    batch = examples.batch(np.array([2, 0, 3]), size=16, rows=6)
    adapted.task.reference = lambda *args: asked.append(1) or reference(*args)  # type: ignore[attr-defined]
    try:
        with torch.no_grad(), kept.replay(batch) as known:
            replayed = adapted.forward(known)
        assert not asked  # what was computed once is not computed again
        with torch.no_grad():
            plain = adapted.forward(batch)
        assert asked
    finally:
        del adapted.task.reference  # type: ignore[attr-defined]
    torch.testing.assert_close(replayed.losses[:3], plain.losses[:3], rtol=1e-4, atol=1e-5)
    assert torch.isfinite(replayed.losses).all()


def test_sites_that_train_together_learn_what_they_learn_alone() -> None:
    adapted = model(layers=3, adapter={"layers_to_transform": [2]})
    trainer, prefix = Trainer(StackedGradients(adapted)), FrozenPrefix(adapted)
    training = TrainingSection(batch_size=4, physical_batch_size=4, local_steps=2)
    plan = SampledPlan(mechanism=GAUSSIAN, clipping_norm=1.0, sampling_rate=0.8, steps=2, delta=1e-5)
    parts = [pairs(adapted, (4, 7, 10)), pairs(adapted, (9, 5, 8, 6))]
    assert len(JointExamples(parts)) == 7

    def shares() -> list[Share]:
        return [
            Share(
                adapter=random_adapter(adapted),
                examples=part,
                plan=plan,
                hidden=False,
                entropy=keyed_entropy(1, f"site-{number}"),
                activations=Activations(prefix, part),
                between=lambda *_: None,
            )
            for number, part in enumerate(parts)
        ]

    together = train_together(trainer, shares(), training=training, round_number=1, rows=8)
    for share, found in zip(shares(), together, strict=True):
        single = share.train(trainer, training=training, round_number=1)
        # Rounding in batches of another height, before a grid of 2^-40 of the clipping norm.
        np.testing.assert_allclose(found, single, atol=2e-5)
