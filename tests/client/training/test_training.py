"""Training takes the steps that the plan accounts for and moves the adapter only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import client.training.step
from client.training.gradients import HookedGradients
from client.training.optimizer import PrivateOptimizer
from client.training.training import Trainer
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import JobError, ModelError, PrivacyUnitError, RunError
from privacy.mechanisms.clipping import STEPS
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import fresh_entropy, keyed_entropy
from protocol.job.job import TrainingSection
from tasks.data.examples import Examples
from tests.models import CASES, adapt, bert, gpt2, llama, make_job, random_adapter

LLAMA = CASES["llama-qv"]
BERT = CASES["bert-qv-head"]
LENGTHS = (3, 5, 7, 9, 4, 6, 8, 5)

# Every example in every batch, nothing clipped, no noise: plain gradient descent.
PLAIN = SampledPlan(
    mechanism=Mechanism(name="none", multiplier=0.0),
    clipping_norm=1e6,
    sampling_rate=1.0,
    steps=100,
    delta=1e-5,
)
PRIVATE = replace(
    PLAIN, clipping_norm=1.0, mechanism=Mechanism(name="gaussian", multiplier=1.0), sampling_rate=0.5
)


keyed = keyed_entropy(7, "site")


def section(**changes: Any) -> TrainingSection:
    values = {"rounds": 4, "batch_size": len(LENGTHS), "learning_rate": 0.1, **changes}
    return TrainingSection(physical_batch_size=values.pop("physical_batch_size", 3), **values)


def train(
    trainer: Trainer,
    *,
    plan: SampledPlan = PRIVATE,
    entropy: Any = keyed,
    round_number: int = 1,
    adapter: NDArray[np.float32] | None = None,
    examples: Examples | None = None,
    **training: Any,
) -> NDArray[np.float32]:
    adapted = trainer.adapted
    start = random_adapter(adapted) if adapter is None else adapter
    labelled = BERT if adapted.spec.task != "causal-lm" else LLAMA
    return trainer.train(
        start,
        labelled.examples(LENGTHS) if examples is None else examples,
        training=section(**training),
        plan=plan,
        round_number=round_number,
        entropy=entropy,
        activations=None,
    )


def llama_trainer(**sections: Any) -> Trainer:
    return Trainer(HookedGradients(LLAMA.adapted(**sections)))


# What an update is.


@pytest.mark.parametrize("strategy", ["lora", "ffa", "fedsvd"])
def test_an_update_is_over_trained_tensors_only(strategy: str) -> None:
    trainer = Trainer(HookedGradients(BERT.adapted(strategy={"name": strategy})))
    layout = trainer.adapted.layout

    moved = layout.split_update(train(trainer))

    assert all(change.any() for change in moved.values())
    halves = {name.split(".")[-2] for name in moved if "lora_" in name}
    assert halves == ({"lora_A", "lora_B"} if strategy == "lora" else {"lora_B"})
    assert {"base_model.model.classifier.bias", "base_model.model.classifier.weight"} <= set(moved)


def test_an_update_is_the_way_from_the_adapter_that_came() -> None:
    trainer = llama_trainer(strategy={"name": "ffa"})
    start = random_adapter(trainer.adapted)

    update = train(trainer, adapter=start)

    found = trainer.adapted.layout.join(
        {name: parameter.detach().numpy() for name, parameter in trainer.adapted._parameters.items()}
    )
    # One float32 subtraction and one addition of numbers near 1.
    np.testing.assert_allclose(trainer.adapted.layout.apply(start, update), found, atol=1e-6)


def test_training_leaves_the_base_model_as_it_is() -> None:
    trainer = llama_trainer()
    adapter = {id(parameter) for parameter in trainer.adapted.trained.values()}
    frozen = [p for p in trainer.adapted.peft.parameters() if id(p) not in adapter]
    before = [parameter.clone() for parameter in frozen]

    train(trainer, local_steps=3)

    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    assert all(parameter.grad is None for parameter in frozen)


def test_plain_training_is_gradient_descent() -> None:
    trainer, reference = llama_trainer(), LLAMA.adapted()
    start = random_adapter(reference)
    reference.load(start)
    examples = LLAMA.examples(LENGTHS)
    loss = reference.forward(examples.batch(np.arange(8))).losses.mean()
    gradients = torch.autograd.grad(loss, list(reference.trained.values()))

    update = train(trainer, plan=PLAIN, learning_rate=0.1)

    descent = -0.1 * np.concatenate([g.numpy().ravel() for g in gradients])
    # The update is a difference of float32 numbers near 1: 2^-24 of them.
    np.testing.assert_allclose(update, descent, atol=5e-7)


def test_training_lowers_the_loss() -> None:
    trainer = llama_trainer()
    start = random_adapter(trainer.adapted)
    batch = LLAMA.examples(LENGTHS).batch(np.arange(8))

    def loss() -> float:
        with torch.no_grad():
            return float(trainer.adapted.forward(batch).losses.mean())

    trainer.adapted.load(start)
    before = loss()
    train(trainer, plan=PLAIN, adapter=start, local_steps=20, learning_rate=0.5)

    assert loss() < before - 0.1


def test_a_model_left_in_eval_mode_still_trains() -> None:
    left, fresh_one = llama_trainer(), llama_trainer()
    left.adapted.peft.eval()

    np.testing.assert_array_equal(train(left), train(fresh_one))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "none"])
@pytest.mark.exhaustive(but=1)
def test_mechanisms_and_optimizers_train_in_bfloat16(mechanism: str, optimizer: str) -> None:
    trainer = Trainer(HookedGradients(BERT.adapted(bfloat16=True)))
    multiplier = 0.0 if mechanism == "none" else 1.0
    plan = replace(PRIVATE, mechanism=Mechanism(name=mechanism, multiplier=multiplier))

    update = train(trainer, plan=plan, optimizer=optimizer, local_steps=2)

    assert update.dtype == np.float32
    assert np.isfinite(update).all()
    assert update.any()


# Steps.


def test_physical_batches_do_not_change_the_update() -> None:
    updates = [train(llama_trainer(), physical_batch_size=size, local_steps=2) for size in (1, 3, 8)]

    # Sums of eight clipped gradients in another order: 2^-24 of numbers near 1, a few times.
    np.testing.assert_allclose(updates[0], updates[2], atol=2e-6)
    np.testing.assert_allclose(updates[1], updates[2], atol=2e-6)


def test_an_empty_poisson_batch_still_takes_a_noisy_step() -> None:
    trainer = llama_trainer()
    nobody = replace(PRIVATE, sampling_rate=1e-12)

    update = train(trainer, plan=nobody, learning_rate=1.0)

    assert not len(keyed(1, 0, "sampling").poisson_sample(len(LENGTHS), rate=1e-12))
    source = keyed(1, 0, "gradients")
    drawn = [
        nobody.mechanism.noise(p.numel(), steps=STEPS, source=source)
        for p in trainer.adapted.trained.values()
    ]
    noise = [part / STEPS for part in drawn]
    # Rounded to float32 when added to weights near 1.
    np.testing.assert_allclose(update, -np.concatenate(noise) / len(LENGTHS), atol=5e-7)


def test_each_step_draws_its_own_sample_and_noise() -> None:
    asked = []

    def noted(*what: Any) -> Any:
        asked.append(what)
        return keyed(*what)

    train(llama_trainer(), entropy=noted, round_number=3, local_steps=4)

    expected = {(3, step, purpose) for step in range(4) for purpose in ("sampling", "gradients")}
    assert len(asked) == len(expected)
    assert set(asked) == expected


def test_dropout_moves_neither_who_is_drawn_nor_the_noise() -> None:
    """Each purpose has a stream of its own: what one of them takes shifts no other."""
    drawn = {}
    for dropout in (0.0, 0.3):
        sources = [keyed(1, 0, purpose) for purpose in ("sampling", "gradients")]
        job = {"adapter": {"dropout": dropout}, "privacy": {"mechanism": "none"}}
        asked = dict(zip(("sampling", "gradients"), sources, strict=True))
        train(llama_trainer(**job), entropy=lambda r, s, p, a=asked: a.get(p) or keyed(r, s, p))
        drawn[dropout] = [source.seed() for source in sources]  # what comes next in each stream
    assert drawn[0.0] == drawn[0.3]


def test_the_denominator_is_the_expected_batch_size() -> None:
    examples = LLAMA.examples(LENGTHS)
    few = train(llama_trainer(), plan=PLAIN, examples=examples.take(np.arange(4)))
    others = train(llama_trainer(), plan=PLAIN, examples=examples.take(np.arange(4, 8)))
    all_of_them = train(llama_trainer(), plan=PLAIN, examples=examples)

    # Divided by what was drawn, halves would average to the whole in place of adding up to it.
    np.testing.assert_allclose(few + others, all_of_them, atol=1e-6)


# The learning rate.


@pytest.mark.exhaustive
def test_linear_decay_falls_to_zero_over_the_run() -> None:
    constant = train(llama_trainer(), plan=PLAIN)
    shares = [train(llama_trainer(), plan=PLAIN, round_number=n, decay="linear") for n in (1, 2, 3, 4)]

    for share, update in zip((1.0, 0.75, 0.5, 0.25), shares, strict=True):
        np.testing.assert_allclose(update, share * constant, atol=5e-7)


def test_decay_counts_local_steps() -> None:
    by_steps = train(llama_trainer(), plan=PLAIN, rounds=1, local_steps=2, decay="linear")
    trainer = llama_trainer()
    start = random_adapter(trainer.adapted)
    first = train(trainer, plan=PLAIN, rounds=2, decay="linear", adapter=start)
    between = trainer.adapted.layout.apply(start, first)
    second = train(trainer, plan=PLAIN, rounds=2, decay="linear", adapter=between, round_number=2)

    np.testing.assert_allclose(by_steps, first + second, atol=1e-6)


# Randomness.


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.exhaustive(but=1)
def test_keyed_entropy_repeats_bit_for_bit(dropout: float) -> None:
    job = {"adapter": {"dropout": dropout}, "privacy": {"mechanism": "none"}}
    first = train(llama_trainer(**job), local_steps=2)
    torch.manual_seed(123)
    trainer = llama_trainer(**job)
    train(trainer, round_number=2)

    np.testing.assert_array_equal(first, train(trainer, local_steps=2))


def test_rounds_differ_under_keyed_entropy() -> None:
    assert not np.array_equal(
        train(llama_trainer(), round_number=1), train(llama_trainer(), round_number=2)
    )


def test_fresh_entropy_does_not_repeat() -> None:
    assert not np.array_equal(
        train(llama_trainer(), entropy=fresh_entropy), train(llama_trainer(), entropy=fresh_entropy)
    )


def test_dropout_takes_part_in_training() -> None:
    without = train(llama_trainer(), plan=PLAIN)
    some = train(llama_trainer(adapter={"dropout": 0.5}, privacy={"mechanism": "none"}), plan=PLAIN)

    assert np.abs(some - without).max() > 0.01 * np.abs(without).max()


# What fails, and how.


def test_nan_base_weights_stop_plain_training_with_advice() -> None:
    trainer = llama_trainer()
    norm = trainer.adapted.peft.get_submodule("base_model.model.model.norm")
    norm.weight.data[0] = float("nan")

    with pytest.raises(RunError, match=r"lower training\.learning_rate.*base model's weights"):
        train(trainer, plan=PLAIN)


def test_a_huge_learning_rate_stops_plain_training_with_advice() -> None:
    with pytest.raises(RunError, match=r"lower training\.learning_rate"):
        train(llama_trainer(), plan=PLAIN, learning_rate=1e30, local_steps=3)


def test_an_update_beyond_float32_stops_private_training_too() -> None:
    loud = replace(PRIVATE, mechanism=Mechanism(name="gaussian", multiplier=1000.0))

    with pytest.raises(RunError, match=r"lower training\.learning_rate"):
        train(llama_trainer(), plan=loud, learning_rate=1e38)


def test_private_training_counts_a_non_finite_example_as_zero_and_goes_on() -> None:
    examples = LLAMA.examples(LENGTHS)
    # A token that occurs in the first example alone makes its loss, and no other's, NaN.
    examples.tokens[examples.tokens == 1] = 2
    examples.tokens[0] = 1
    poisoned, healthy = llama_trainer(), llama_trainer()
    embedding = poisoned.adapted.peft.get_submodule("base_model.model.model.embed_tokens")
    embedding.weight.data[1] = float("inf")
    quiet = replace(PLAIN, mechanism=Mechanism(name="gaussian", multiplier=1e-30))

    update = train(poisoned, plan=quiet, examples=examples)
    others = train(healthy, plan=quiet, examples=examples.take(np.arange(1, 8)))

    # The same sum in other physical batches: rounding of numbers near 1.
    np.testing.assert_allclose(update, others, atol=1e-6)
    assert np.abs(others).max() > 1e-3


@pytest.mark.parametrize("rows", [3, 8])
@pytest.mark.exhaustive(but=1)
def test_an_example_that_the_model_fails_on_adds_nothing_and_moves_nobody(rows: int) -> None:
    examples, seen = LLAMA.examples(LENGTHS), []
    failing, healthy = llama_trainer(), llama_trainer()
    first = torch.from_numpy(examples.tokens[:3].astype(np.int64))
    model = failing.adapted.peft.get_submodule("base_model.model.model")
    model.embed_tokens.register_forward_hook(lambda _module, args, _output: seen.append(args[0]))

    def fail(*_arguments: Any) -> None:
        if (seen[-1][:, :3] == first).all(-1).any():
            raise ValueError("a text that this layer does not expect")

    # Above an adapter, so that the hooks of the layers below have seen the batch.
    model.layers[1].register_forward_hook(fail)
    sizes = {"batch_size": 8, "physical_batch_size": rows, "local_steps": 2}

    update = train(failing, plan=PLAIN, examples=examples, **sizes)
    blank = replace(examples, tokens=examples.tokens[3:], offsets=np.maximum(examples.offsets - 3, 0))
    expected = train(healthy, plan=PLAIN, examples=blank, **sizes)

    # Sums are of integers: nothing is rounded by the way in which batches are cut.
    np.testing.assert_array_equal(update, expected)
    assert np.abs(expected).max() > 1e-3


def test_an_optimizer_that_moves_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle(PrivateOptimizer):
        def step(self, closure: Any = None) -> None:
            self.pre_step()

    monkeypatch.setattr(client.training.step, "PrivateOptimizer", Idle)

    with pytest.raises(PrivacyUnitError, match="no weight changed"):
        train(llama_trainer())


def test_a_parameter_outside_the_layout_is_not_trained() -> None:
    trainer = llama_trainer()
    trainer.adapted.peft.get_submodule("base_model.model.lm_head").requires_grad_(True)

    with pytest.raises(PrivacyUnitError, match=r"lm_head.* neither clipped nor noised"):
        train(trainer)


# Where the adapter goes.


@pytest.mark.parametrize("targets", [["nonsense"], ["q_proj", "nonsense"], ["embed_tokens"]])
def test_an_unknown_target_is_answered_with_the_linear_layers(targets: list[str]) -> None:
    known = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"

    with pytest.raises(ModelError, match=rf"'{targets[-1]}'.* linear layers are called: {known}$"):
        adapt(llama(), make_job(targets=targets))


@pytest.mark.parametrize("targets", [["word_embeddings"], ["query", "position_embeddings"]])
def test_embeddings_carry_no_adapter(targets: list[str]) -> None:
    with pytest.raises(ModelError, match=rf"'{targets[-1]}'.* expected the names of linear layers"):
        adapt(bert(), make_job(targets=targets, task=BERT.task))


def test_a_layer_that_does_not_exist_is_refused() -> None:
    job = make_job(targets=["q_proj"], adapter={"layers_to_transform": [0, 2]})

    with pytest.raises(ModelError, match=r"layers_to_transform: expected layers 0 to 1, got 2"):
        adapt(llama(layers=2), job)


def test_a_rank_beyond_the_layer_is_refused() -> None:
    adapted = adapt(llama(), make_job(targets=["q_proj"], adapter={"rank": 17}))

    with pytest.raises(ModelError, match=r"adapter\.rank: expected at most 16.*q_proj, got 17"):
        adapted.initial_adapter(0)


def test_dora_cannot_be_asked_for() -> None:
    with pytest.raises(JobError, match=r"adapter\.use_dora: DoRA is not supported"):
        make_job(targets=["q_proj"], adapter={"use_dora": True})


@pytest.mark.parametrize(
    ("asked", "count", "expected"),
    [
        ("top 50%", 4, {2, 3}),
        ("top 1%", 4, {3}),
        ("top 100%", 4, {0, 1, 2, 3}),
        # 0.28 · 25 is 7.000000000000001 in floating point.
        ("top 28%", 25, set(range(18, 25))),
        ([1], 4, {1}),
        ([3, 0, 3], 4, {0, 3}),
    ],
)
def test_layers_to_transform(asked: str | list[int], count: int, expected: set[int]) -> None:
    job = make_job(targets=["q_proj"], adapter={"layers_to_transform": asked})

    names = [slot.name for slot in adapt(llama(layers=count), job).layout.slots]

    assert {int(name.split(".layers.")[1].split(".")[0]) for name in names} == expected


@pytest.mark.parametrize(
    ("model", "targets", "parts"),
    [(llama, 7, "layers.1."), (gpt2, 4, "h.1."), (bert, 6, "layer.1.")],
)
def test_all_linear_with_layers_to_transform(model: Any, targets: int, parts: str) -> None:
    task = "sequence-classification" if model is bert else "causal-lm"
    job = make_job(targets=["all-linear"], task=task, adapter={"layers_to_transform": [1]})

    names = [s.name for s in adapt(model(layers=3), job).layout.slots if "lora_A" in s.name]

    assert len(names) == targets
    assert all(parts in name for name in names)


def test_a_tensor_with_a_factor_goes_so_many_times_as_far() -> None:
    trainer = Trainer(HookedGradients(BERT.adapted(strategy={"name": "ffa"})))
    layout = trainer.adapted.layout
    plain, fast = (
        layout.split_update(train(trainer, local_steps=1, rates=rates)) for rates in ({}, {"lora_B": 4.0})
    )
    for name, change in plain.items():
        # A float32 weight near 1 is rounded once each time.
        factor = 4.0 if ".lora_B." in name else 1.0
        np.testing.assert_allclose(fast[name], factor * change, rtol=1e-4, atol=2e-6)
