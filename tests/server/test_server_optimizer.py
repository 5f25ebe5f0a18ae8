"""Server optimizers: Flower's, fed with arrays; what is assumed of them, and what they compute."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp import strategy as flowers
from numpy.typing import NDArray
from pydantic import ValidationError

from privacy.errors import JobError
from protocol.job.strategy import State, Strategy
from protocol.job.trained_rounds import TrainedRounds
from server.server_optimizer import merge_round
from tests import tiny

MOMENTUM: dict[str, Any] = {"optimizer": "fedavgm", "learning_rate": 0.5, "momentum": 0.8}
ADAM: dict[str, Any] = {
    "optimizer": "fedadam",
    "learning_rate": 0.1,
    "beta1": 0.9,
    "beta2": 0.99,
    "tau": 1e-3,
}
YOGI: dict[str, Any] = ADAM | {"optimizer": "fedyogi"}
ADAGRAD: dict[str, Any] = {"optimizer": "fedadagrad", "learning_rate": 0.1, "tau": 1e-3}
ALL = [MOMENTUM, ADAM, YOGI, ADAGRAD]
each = pytest.mark.parametrize("server", ALL, ids=lambda server: server["optimizer"])


def rule(name: str, server: dict[str, Any] | None) -> Strategy:
    return Strategy.model_validate({"name": name, "server": server})


class Case:
    """An adapter of one pair and a head, and the aggregates of some rounds."""

    def __init__(self, strategy: Strategy, rounds: int = 4) -> None:
        self.strategy = strategy
        self.layout = strategy.lay_out(
            {"head.weight": (2, 3), "l.lora_A.weight": (2, 5), "l.lora_B.weight": (5, 2)}
        )
        generator = np.random.default_rng(0)
        self.start = generator.standard_normal(self.layout.adapter_size).astype(np.float32)
        self.updates = generator.standard_normal((rounds, self.layout.update_size)).astype(np.float32)

    def after(self, rounds: int, state: State | None = None, *, first: int = 1) -> State:
        state = state or self.strategy.start(self.layout, self.start)
        for number in range(first, rounds + 1):
            layout = self.strategy.in_round(self.layout, number)
            state = merge_round(
                TrainedRounds(strategy=self.strategy), state, self.updates[number - 1], layout, number
            )
        return state

    def tensors(self, state: State) -> dict[str, NDArray[np.float32]]:
        return self.layout.split(state.adapter)


def reference(server: dict[str, Any], x: NDArray[Any], updates: NDArray[Any]) -> NDArray[Any]:
    """Algorithm 2 of Reddi et al., and momentum, in float64; with Flower's correction of Adam's bias."""
    x, first, second = x.astype(np.float64), np.zeros(x.shape), np.zeros(x.shape)
    rate = server["learning_rate"]
    for step, delta in enumerate(updates.astype(np.float64), start=1):
        if server["optimizer"] == "fedavgm":
            first = server["momentum"] * first + delta
            x = x + rate * first
            continue
        beta1, beta2 = server.get("beta1", 0.0), server.get("beta2", 0.0)
        first = beta1 * first + (1 - beta1) * delta
        now = rate
        if server["optimizer"] == "fedadam":
            second = beta2 * second + (1 - beta2) * delta**2
            now = rate * np.sqrt(1 - beta2 ** (step + 1)) / (1 - beta1 ** (step + 1))
        elif server["optimizer"] == "fedyogi":
            second = second - (1 - beta2) * delta**2 * np.sign(second - delta**2)
        else:
            second = second + delta**2
        x = x + now * first / (np.sqrt(second) + server["tau"])
    return x


@each
def test_it_is_the_published_one(server: dict[str, Any]) -> None:
    case = Case(rule("fedit", server))
    expected = reference(server, case.start, case.updates)
    # Some twenty operations of float32 on numbers of about ten.
    np.testing.assert_allclose(case.after(4).adapter, expected, atol=2e-5)
    plain = Case(rule("fedit", None)).after(4).adapter
    assert np.abs(plain - expected).max() > 0.1


@each
def test_a_run_that_was_stopped_goes_on(server: dict[str, Any], tmp_path: Path) -> None:
    case = Case(rule("ffa", server))
    whole, half = case.after(4), case.after(2)
    assert case.after(
        4, State(adapter=half.adapter, memory=dict(half.memory)), first=3
    ).adapter.tobytes() == (whole.adapter.tobytes())
    forgotten = case.after(4, State(adapter=half.adapter), first=3)
    assert forgotten.adapter.tobytes() != whole.adapter.tobytes()


def test_momentum_of_none_at_a_rate_of_one_is_the_mean_itself() -> None:
    server = {"optimizer": "fedavgm", "learning_rate": 1.0, "momentum": 0.0}
    found = Case(rule("ffa", server)).after(3)
    assert found.adapter.tobytes() == Case(rule("ffa", None)).after(3).adapter.tobytes()


@each
@pytest.mark.parametrize("name", ["ffa", "rolora", "head"])
def test_what_a_round_does_not_train_stays(server: dict[str, Any], name: str) -> None:
    case = Case(rule(name, server))
    states = [case.after(number) for number in range(5)]
    for number in range(1, 5):
        before, after = case.tensors(states[number - 1]), case.tensors(states[number])
        for slot in case.strategy.in_round(case.layout, number).slots:
            assert np.array_equal(before[slot.name], after[slot.name]) != slot.trained


def test_tensors_in_turn_have_steps_of_their_own() -> None:
    """What RoLoRA's B is moved by in round 3 is what it would be in a second round of B alone."""
    case = Case(rule("rolora", ADAM), rounds=3)
    alone = Case(rule("ffa", ADAM), rounds=2)
    alone.updates = case.updates[[0, 2]]  # both are as long: the head, and half a pair of one size
    found, name = case.tensors(case.after(3)), "l.lora_B.weight"
    assert np.array_equal(found[name], alone.tensors(alone.after(2))[name])
    head = Case(rule("ffa", ADAM), rounds=3)
    head.updates = case.updates
    assert np.array_equal(found["head.weight"], head.tensors(head.after(3))["head.weight"])


def test_other_keys_than_an_optimizer_has_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(JobError, match=r"strategy\.server\.momentum: unknown key"):
        tiny.job(tiny_folder, strategy={"name": "ffa", "server": ADAM | {"momentum": 0.9}})
    with pytest.raises(
        JobError, match=r"strategy\.server: expected \{ optimizer = NAME, … \} with one of fedavgm, fedadam"
    ):
        tiny.job(tiny_folder, strategy={"name": "ffa", "server": {"optimizer": "adamw"}})
    with pytest.raises(ValidationError):
        rule("ffa", MOMENTUM | {"momentum": 1.0})


@pytest.mark.parametrize("name", ["fedsvd", "lora_fair"])
def test_a_rule_that_it_does_not_go_with_is_refused(tiny_folder: Path, name: str) -> None:
    with pytest.raises(JobError, match=rf'strategy\.server: expected none with strategy\.name="{name}"'):
        tiny.job(tiny_folder, strategy={"name": name, "server": MOMENTUM})


# What is assumed of Flower.


def test_flower_aggregates_where_the_aggregate_is_given() -> None:
    """No class between ``FedAvg`` and the optimizers has a mean of its own, and each asks the one above."""
    assert flowers.FedAvgM.__bases__ == (flowers.FedAvg,)
    (shared,) = flowers.FedAdam.__bases__
    assert shared.__bases__ == (flowers.FedAvg,)
    assert "aggregate_train" not in vars(shared)
    for kind in (flowers.FedAdam, flowers.FedYogi, flowers.FedAdagrad):
        assert kind.__bases__ == (shared,)
        assert "super().aggregate_train" in inspect.getsource(kind.aggregate_train)
    assert "super().aggregate_train" in inspect.getsource(flowers.FedAvgM.aggregate_train)
    assert list(inspect.signature(flowers.FedAvg.aggregate_train).parameters) == [
        "self",
        "server_round",
        "replies",
    ]


def test_flower_remembers_in_these_attributes() -> None:
    momentum = flowers.FedAvgM(server_learning_rate=0.5, server_momentum=0.8)
    assert momentum.current_arrays is None
    assert momentum.momentum_vector is None
    for kind in (flowers.FedAdam, flowers.FedYogi):
        optimizer = kind(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
        assert (optimizer.current_arrays, optimizer.m_t, optimizer.v_t) == (None, None, None)
    assert flowers.FedAdagrad(eta=0.1, tau=1e-3).beta_1 == 0.0


def test_an_array_record_keeps_order_and_values() -> None:
    values = {name: np.arange(3, dtype=np.float32) + number for number, name in enumerate("cab")}
    record = ArrayRecord({name: Array(value) for name, value in values.items()})
    assert list(record) == ["c", "a", "b"]
    assert all(np.array_equal(record[name].numpy(), value) for name, value in values.items())
    for found, value in zip(record.to_numpy_ndarrays(), values.values(), strict=True):
        assert np.array_equal(found, value)
