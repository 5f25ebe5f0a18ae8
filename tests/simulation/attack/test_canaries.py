"""Canaries: where they stand, what their gradients are, and what is counted of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from client.training.gradients import Gradients, Loss
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import RunError, UserError
from privacy.mechanisms.clipping import clip_gradients
from privacy.mechanisms.mechanism import Mechanism
from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.strategy import State, find_strategy
from simulation.attack.canaries import Canaries, draw_canaries
from simulation.attack.canary_gradients import CanaryGradients
from simulation.attack.observed import moved
from tasks.data.examples import Batch
from tasks.data.token_examples import TokenExamples

BOUND = 0.5
LAYOUT = AdapterLayout(
    slots=(
        TensorSlot(name="q.lora_A.weight", shape=(2, 6), trained=False),
        TensorSlot(name="q.lora_B.weight", shape=(5, 2), trained=True),
        TensorSlot(name="score.weight", shape=(3, 4), trained=True),
    )
)
FEDSVD = find_strategy("fedsvd").model_validate({})
PLAN = SampledPlan(
    mechanism=Mechanism(name="gaussian", multiplier=1.0),
    clipping_norm=BOUND,
    sampling_rate=0.5,
    steps=4,
    delta=1e-5,
)


def examples(count: int, *, blank: int = 0) -> TokenExamples:
    """The first ones are blank."""
    sizes = np.array([0] * blank + [2] * (count - blank))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return TokenExamples(tokens=np.ones(offsets[-1], np.int32), offsets=offsets, labels=None)


def drawn(wanted: int, *, seed: int = 0, count: int = 40, blank: int = 0) -> Canaries:
    return draw_canaries(
        "site-1",
        examples(count, blank=blank),
        layout=LAYOUT,
        strategy=FEDSVD,
        wanted=wanted,
        generator=np.random.default_rng(seed),
    )


def test_each_has_an_example_and_a_coordinate_of_its_own() -> None:
    canaries = drawn(30, blank=15)
    # 22 trained numbers are fewer than the 25 examples that hold anything.
    assert len(canaries) == len(set(canaries.rows)) == len(set(canaries.places)) == 22
    assert canaries.rows.min() >= 15
    names = {name: len(rows) for name, rows in canaries.tensors.items()}
    assert names == {"q.lora_B.weight": 10, "score.weight": 12}
    assert (canaries.offsets[canaries.tensors["score.weight"]] < 12).all()


def test_where_a_basis_turns_the_other_tensors_come_first() -> None:
    assert len(drawn(12).tensors["score.weight"]) == 12
    assert drawn(12, seed=1).present.tolist() != drawn(12, seed=2).present.tolist()


def test_too_little_room_is_said() -> None:
    with pytest.raises(UserError, match="room for 8 canaries"):
        drawn(30, count=12, blank=5)


@dataclass
class Given:
    """A method that finds the gradients that it was given."""

    found: Mapping[str, torch.Tensor]
    adapted: Any = None
    batched: bool = True
    asked: list[Batch] = field(default_factory=list)

    def backward(self, batch: Batch, loss: Loss) -> Gradients:
        self.asked.append(batch)
        return {name: rows[torch.from_numpy(batch.indices)] for name, rows in self.found.items()}


def loss(batch: Batch) -> torch.Tensor:
    return torch.zeros(len(batch))


def given(count: int = 40) -> Given:
    generator = torch.Generator().manual_seed(0)
    sizes = {"q.lora_B.weight": (5, 2), "score.weight": (3, 4)}
    # As a batched product leaves them: not laid out in a row.
    return Given(
        {n: torch.randn(count, *reversed(s), generator=generator).transpose(1, 2) for n, s in sizes.items()}
    )


def test_outside_a_round_gradients_are_a_models_own() -> None:
    method, canaries = given(), drawn(22)
    batch = examples(40).batch(np.arange(40))
    found = CanaryGradients(method, canaries, planted=True).backward(batch, loss)
    assert all(torch.equal(found[name], method.found[name]) for name in found)


def test_within_a_round_canaries_step_along_their_coordinates() -> None:
    method, canaries = given(), drawn(22)
    watched = CanaryGradients(method, canaries, planted=True)
    contributed = watched.begin(PLAN)
    watched.step(0.25)
    batch = examples(40).batch(np.arange(40))
    found = watched.backward(batch, loss)
    flat = torch.cat([found[name].flatten(1) for name in found], dim=1).numpy()
    for number, row in enumerate(canaries.rows):
        expected = np.zeros(22)
        if canaries.present[number]:
            expected[canaries.places[number]] = 4 * BOUND
        np.testing.assert_array_equal(flat[row], expected)
    others = np.setdiff1d(np.arange(40), canaries.rows)
    whole = torch.cat([method.found[name].flatten(1) for name in found], dim=1).numpy()
    np.testing.assert_array_equal(flat[others], whole[others])
    # What is counted of the others is what clipping leaves of them.
    clipped = clip_gradients([method.found[name][others] for name in found], bound=BOUND, norm=2)
    summed = torch.cat([tensor.flatten() for tensor in clipped.tensors]).double().numpy() * clipped.step
    np.testing.assert_allclose(contributed.others, 0.25 * summed[canaries.places], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(contributed.signal, 0.25 * BOUND)
    watched.step(0.75)
    assert contributed.noise == pytest.approx(BOUND * np.hypot(0.25, 0.75))
    assert contributed.unit == pytest.approx(BOUND * 0.5)


def test_other_sites_have_no_canaries_and_are_counted_whole() -> None:
    method, canaries = given(), drawn(22)
    watched = CanaryGradients(method, canaries, planted=False)
    contributed = watched.begin(PLAN)
    watched.step(1.0)
    found = watched.backward(examples(40).batch(np.arange(40)), loss)
    assert all(torch.equal(found[name], method.found[name]) for name in found)
    clipped = clip_gradients([method.found[name] for name in found], bound=BOUND, norm=2)
    summed = torch.cat([tensor.flatten() for tensor in clipped.tensors]).double().numpy() * clipped.step
    np.testing.assert_allclose(contributed.others, summed[canaries.places], rtol=1e-5, atol=1e-9)
    assert not contributed.signal.any()


def test_canaries_that_fail_do_not_pass_for_blank_ones() -> None:
    """Training takes whatever raises in a batch for the model's fault: here it would hide the attack."""
    method = given()
    watched = CanaryGradients(method, drawn(22), planted=True)
    watched.begin(PLAN)
    method.found = {"score.weight": method.found["score.weight"], "stray": torch.zeros(40, 2)}
    with pytest.raises(KeyError):
        watched.backward(examples(40).batch(np.arange(40)), loss)
    with pytest.raises(RunError, match="could not be placed"):
        watched.end()


def test_what_a_round_moved_is_told_in_the_basis_that_it_was_trained_in() -> None:
    generator = np.random.default_rng(4)
    a = np.linalg.qr(generator.standard_normal((6, 2)))[0].T
    tensors = {
        "q.lora_A.weight": a.astype(np.float32),
        "q.lora_B.weight": generator.standard_normal((5, 2)).astype(np.float32),
        "score.weight": generator.standard_normal((3, 4)).astype(np.float32),
    }
    before = LAYOUT.join(tensors)
    update = generator.standard_normal(LAYOUT.update_size).astype(np.float32)
    after = FEDSVD.merge(State(adapter=before), update, LAYOUT, 1).adapter
    np.testing.assert_allclose(moved(LAYOUT, FEDSVD, before, after), update, atol=1e-5)
    assert np.abs(LAYOUT.change(before, after) - update).max() > 0.1  # read as it is, it is another
