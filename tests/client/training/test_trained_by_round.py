"""Rounds that train other tensors: what one does not train is not clipped, noised or moved in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.training.cancellation import no_pause
from client.training.gradient_check import choose_gradients
from client.training.gradients import HookedGradients, OneByOne, PerExampleGradients
from client.training.stacked_gradients import StackedGradients
from client.training.together import Share, train_together
from client.training.training import Trainer
from client.training.unit_check import check_privacy_unit
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import JobError, PrivacyUnitError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.job import TrainingSection
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import CASES, random_adapter

CASE, LANGUAGE = CASES["bert-qv-head"], CASES["llama-qv"]
TRAINING = TrainingSection(
    rounds=4, local_steps=2, batch_size=4, physical_batch_size=4, learning_rate=0.5, optimizer="adam"
)
LENGTHS = (3, 5, 7, 4, 2, 6)
ROLORA: dict[str, Any] = {"strategy": {"name": "rolora"}}
TRAINED = {1: {"lora_B"}, 2: {"lora_A"}, 3: {"lora_B"}}
KINDS = (StackedGradients, HookedGradients, OneByOne)


def plan(multiplier: float) -> SampledPlan:
    mechanism = Mechanism(name="gaussian" if multiplier else "none", multiplier=multiplier)
    return SampledPlan(mechanism=mechanism, clipping_norm=0.3, sampling_rate=0.6, steps=8, delta=1e-5)


def train(trainer: Trainer, number: int, *, multiplier: float = 0.5) -> NDArray[np.float32]:
    return trainer.train(
        random_adapter(trainer.adapted),
        CASE.examples(LENGTHS),
        training=TRAINING,
        plan=plan(multiplier),
        round_number=number,
        entropy=keyed_entropy(0, "site"),
        activations=None,
    )


def moved(adapted: AdaptedModel) -> set[str]:
    """Of all tensors those that are not as they were before training."""
    before = adapted.layout.split(random_adapter(adapted))
    now = {name: parameter.detach().numpy() for name, parameter in adapted._parameters.items()}
    return {name for name in before if not np.array_equal(before[name], now[name])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", TRAINED)
@pytest.mark.exhaustive(but=3)
def test_a_round_moves_and_sends_what_it_trains(kind: type[PerExampleGradients], number: int) -> None:
    trainer = Trainer(kind(CASE.adapted(**ROLORA)))  # type: ignore[call-arg]
    adapted = trainer.adapted
    update = train(trainer, number)
    head = {name for name in adapted.layout.split(random_adapter(adapted)) if ".lora_" not in name}
    assert {name.split(".")[-2] for name in moved(adapted) - head} == TRAINED[number]
    assert moved(adapted) > head
    assert update.shape == (adapted.layout.update_size,)
    size = adapted.round_layout.trained_size
    assert update[:size].all()
    assert not update[size:].any()


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.exhaustive(but=1)
def test_no_round_leaves_anything_to_the_next(kind: type[PerExampleGradients]) -> None:
    """A site that was started anew between them sends the same."""
    one, anew = (Trainer(kind(CASE.adapted(**ROLORA))) for _ in range(2))  # type: ignore[call-arg]
    first, second = train(one, 1), train(one, 2)
    assert train(anew, 2).tobytes() == second.tobytes()
    assert train(anew, 1).tobytes() == first.tobytes()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.exhaustive(but=1)
def test_all_methods_find_the_same(number: int) -> None:
    updates = [
        train(Trainer(kind(CASE.adapted(**ROLORA))), number)  # type: ignore[call-arg]
        for kind in KINDS
    ]
    for other in updates[1:]:
        # Adam divides by a gradient's size: where that is tiny, rounding shows more.
        np.testing.assert_allclose(other, updates[0], atol=2e-3)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.exhaustive(but=1)
def test_sites_together_have_what_they_have_alone(number: int) -> None:
    training = TRAINING.model_copy(update={"optimizer": "sgd"})
    trainer = Trainer(StackedGradients(CASE.adapted(**ROLORA)))
    shares = [
        Share(
            adapter=random_adapter(trainer.adapted),
            examples=CASE.examples(lengths),
            plan=plan(0.5),
            hidden=False,
            entropy=keyed_entropy(0, str(lengths)),
            activations=None,
            between=no_pause,
        )
        for lengths in (LENGTHS, (2, 9, 4, 4))
    ]
    alone = [share.train(trainer, training=training, round_number=number) for share in shares]
    # The model was in another round: what it trains follows from the number alone.
    trainer.adapted.train_in(number + 1)
    together = train_together(trainer, shares, training=training, round_number=number, rows=6)
    for update, before in zip(together, alone, strict=True):
        # As in test_together: two steps' sums of float32 in another order.
        np.testing.assert_allclose(update, before, atol=1e-4 * np.abs(before).max())


@pytest.mark.parametrize("number", [1, 2])
def test_kept_activations_give_the_same(number: int) -> None:
    adapted = CASE.adapted(layers=3, adapter={"layers_to_transform": [2]}, **ROLORA)
    trainer, examples = Trainer(StackedGradients(adapted)), CASE.examples(LENGTHS)
    kept = Activations(FrozenPrefix(adapted), examples)
    assert kept.work
    training = TRAINING.model_copy(update={"optimizer": "sgd"})
    found, expected = (
        trainer.train(
            random_adapter(adapted),
            examples,
            training=training,
            plan=plan(0.5),
            round_number=number,
            entropy=keyed_entropy(0, "site"),
            activations=activations,
        )
        for activations in (kept, None)
    )
    # As in test_together: two steps' sums of float32 in another order.
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["rolora", "head"])
def test_the_privacy_unit_check_passes(name: str) -> None:
    adapted = CASE.adapted(strategy={"name": name})
    method = choose_gradients(adapted)
    assert isinstance(method, StackedGradients)
    check_privacy_unit(method, adapted.probe())


def test_a_round_that_trains_more_than_it_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = CASE.adapted(**ROLORA)
    monkeypatch.setattr(AdaptedModel, "train_in", lambda *_: None)
    with pytest.raises(PrivacyUnitError, match=r"Trained but not asked for: .*lora_A"):
        check_privacy_unit(OneByOne(adapted), adapted.probe())


def test_the_head_alone_moves() -> None:
    trainer = Trainer(StackedGradients(CASE.adapted(strategy={"name": "head"})))
    train(trainer, 1)
    assert moved(trainer.adapted) == {
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
    }


def test_a_language_model_has_no_head_to_train() -> None:
    with pytest.raises(JobError, match=r'strategy\.name: "head" trains a classifier\'s head alone'):
        LANGUAGE.adapted(strategy={"name": "head"})
