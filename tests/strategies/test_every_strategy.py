"""What every strategy promises: each of ours, and two that are written like another package's."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocol.job.manifest import Manifest
from protocol.job.strategy import State, Strategy, find_strategy, strategy_names
from runs.run_folder import RunFolder
from tests import tiny
from tests.strategies.middle import Middle
from tests.strategies.momentum import Momentum


def with_keys(rule: type[Strategy]) -> Strategy:
    """A rule as a job would have it: one against malicious sites is told of one."""
    return rule.model_validate({"malicious": 1} if "malicious" in rule.model_fields else {})


STRATEGIES = [*(with_keys(find_strategy(name)) for name in strategy_names()), Momentum(), Middle()]
ROUNDING = 2.0**-23  # of one float32 operation, relative


def each(strategies: list[Strategy]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("strategy", strategies, ids=lambda strategy: strategy.name)


def each_round(strategies: list[Strategy]) -> pytest.MarkDecorator:
    """Each round of each strategy, until what is trained repeats; ``number`` counts from 1."""
    rounds = [(strategy, number) for strategy in strategies for number in range(1, strategy.cycle + 1)]
    return pytest.mark.parametrize(
        ("strategy", "number"), rounds, ids=[f"{strategy.name}-{number}" for strategy, number in rounds]
    )


every_strategy = each(STRATEGIES)
every_round = each_round(STRATEGIES)
shapes = given(
    rank=st.integers(1, 4),
    rows=st.integers(1, 9),
    columns=st.integers(4, 9),
    seed=st.integers(0, 2**32 - 1),
)
few = settings(max_examples=25, deadline=None)


class Case:
    """One pair and a head, perhaps with a core, laid out for a round, and adapters drawn at random."""

    def __init__(
        self, strategy: Strategy, *, rank: int, rows: int, columns: int, seed: int, number: int = 1
    ) -> None:
        self.strategy, self.number = strategy, number
        sizes = {
            "head.weight": (2, 3),
            "l.lora_A.weight": (rank, columns),
            "l.lora_B.weight": (max(rows, rank), rank),
        } | ({"l.lora_C.weight": (rank, rank)} if strategy.cored else {})
        if strategy.residual:
            sizes["l.residual.weight"] = (max(rows, rank), columns)
        whole = strategy.lay_out(sizes)
        self.layout = strategy.in_round(whole, number)
        self.generator = np.random.default_rng(seed)
        self.before = self.generator.standard_normal(whole.adapter_size).astype(np.float32)
        self.state = strategy.start(whole, self.before)

    def trained(self) -> NDArray[np.float32]:
        """What a site may make of the adapter in the round."""
        tensors = {name: tensor.copy() for name, tensor in self.layout.split(self.before).items()}
        for slot in self.layout.slots:
            if slot.trained:
                tensors[slot.name] += self.generator.standard_normal(slot.shape).astype(np.float32)
        return self.layout.join(tensors)

    def at_site(self, state: State, after: NDArray[np.float32]) -> NDArray[np.float32]:
        """The adapter of a state as a site has it whose own tensors are those of ``after``."""
        return self.layout.with_local(state.adapter, self.layout.local_part(after))

    def encoded(self, after: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.strategy.encode(self.layout, self.before, after)

    def merged(self, sent: list[NDArray[np.float32]]) -> State:
        """The state after a round in which sites sent these, each as many as the rule needs sites."""
        aggregate = np.stack(sent * -(-getattr(self.strategy, "least", 1) // len(sent)))
        if self.strategy.linear:
            aggregate = aggregate.mean(axis=0, dtype=np.float64).astype(np.float32)
        return self.strategy.merge(self.state, aggregate, self.layout, self.number)

    def meaning(self, adapter: NDArray[np.float32]) -> NDArray[np.float64]:
        """What a model makes of an adapter: the head, and the product of the pair with the residual."""
        tensors = {n: t.astype(np.float64) for n, t in self.layout.split(adapter).items()}
        first = tensors["l.lora_A.weight"]
        if self.strategy.cored:
            first = tensors["l.lora_C.weight"] @ first
        product = tensors["l.lora_B.weight"] @ first
        if "l.residual.weight" in tensors:
            product += tensors["l.residual.weight"]
        return np.concatenate([tensors["head.weight"].ravel(), product.ravel()])


def close(found: NDArray[np.float64], expected: NDArray[np.float64]) -> bool:
    """Equal but for rounding, of factors to float32 and of few sums: 64 operations of numbers below it."""
    return bool(np.abs(found - expected).max() <= 64 * ROUNDING * max(1.0, np.abs(expected).max()))


@every_round
@few
@shapes
def test_what_is_sent_is_as_long_as_the_layout_says(strategy: Strategy, number: int, **shape: int) -> None:
    case = Case(strategy, number=number, **shape)
    vector = case.encoded(case.trained())
    assert vector.shape == (case.layout.update_size,)
    assert vector.dtype == np.float32


@every_round
@few
@shapes
def test_a_zero_update_changes_nothing_that_a_model_computes(
    strategy: Strategy, number: int, **shape: int
) -> None:
    case = Case(strategy, number=number, **shape)
    nothing = case.encoded(case.before)
    assert not nothing.any()
    assert close(case.meaning(case.merged([nothing]).adapter), case.meaning(case.before))


@every_round
@few
@shapes
def test_a_single_site_gets_back_what_it_trained(strategy: Strategy, number: int, **shape: int) -> None:
    case = Case(strategy, number=number, **shape)
    after = case.trained()
    merged = case.merged([case.encoded(after)])
    assert close(case.meaning(case.at_site(merged, after)), case.meaning(after))


# What fedask sends adds up as products do, and not as factors: tests/strategies/test_fedask.py.
@each_round([strategy for strategy in STRATEGIES if strategy.linear and strategy.name != "fedask"])
@few
@shapes
def test_the_mean_of_what_is_sent_is_what_the_mean_adapter_sends(
    strategy: Strategy, number: int, **shape: int
) -> None:
    """So a sum that nobody reads the parts of is enough."""
    case = Case(strategy, number=number, **shape)
    sites = [case.trained() for _ in range(3)]
    mean = np.mean(sites, axis=0, dtype=np.float64).astype(np.float32)
    sent = np.mean([case.encoded(after) for after in sites], axis=0, dtype=np.float64)
    assert close(sent, case.encoded(mean).astype(np.float64))


def error(strategy: Strategy, number: int = 1, **shape: int) -> tuple[float, float]:
    """How far a merged adapter is from the mean of what the sites' compute, and how large that is."""
    case = Case(strategy, number=number, **shape)
    sites = [case.trained() for _ in range(3)]
    expected = np.mean([case.meaning(after) for after in sites], axis=0)
    found = case.meaning(case.merged([case.encoded(after) for after in sites]).adapter)
    return float(np.abs(found - expected).max()), max(1.0, float(np.abs(expected).max()))


@each_round([strategy for strategy in STRATEGIES if strategy.exact])
@few
@shapes
def test_an_exact_one_averages_products(strategy: Strategy, number: int, **shape: int) -> None:
    off, size = error(strategy, number, **shape)
    assert off <= 64 * ROUNDING * size


@each([strategy for strategy in STRATEGIES if not strategy.exact])
def test_one_that_does_not_say_so_does_not(strategy: Strategy) -> None:
    off, size = error(strategy, rank=2, rows=5, columns=6, seed=0)
    assert off > 0.01 * size


@every_round
@few
@shapes
def test_only_what_the_round_trains_is_moved(strategy: Strategy, number: int, **shape: int) -> None:
    """But for a change of basis, or what moves into the base, which leave what a model computes."""
    if strategy.basis_turns or strategy.residual:
        return
    case = Case(strategy, number=number, **shape)
    merged = case.layout.split(case.merged([case.encoded(case.trained()) for _ in range(3)]).adapter)
    for slot in case.layout.slots:
        moved = not np.array_equal(merged[slot.name], case.layout.split(case.before)[slot.name])
        assert moved == slot.sent


@every_round
def test_a_convolution_is_merged_as_the_matrix_that_it_is(strategy: Strategy, number: int) -> None:
    """The same numbers come out of a layout in which A has a kernel, and B is one place wide."""
    case = Case(strategy, rank=2, rows=5, columns=6, seed=0, number=number)
    sent = [case.encoded(case.trained()) for _ in range(3)]
    as_matrices = case.merged(sent).adapter
    kernels = {"l.lora_A.weight": (2, 1, 2, 3), "l.lora_B.weight": (5, 2, 1, 1)}
    case.layout = replace(
        case.layout,
        slots=tuple(replace(slot, shape=kernels.get(slot.name, slot.shape)) for slot in case.layout.slots),
    )
    found = case.merged(sent).adapter
    if strategy.name == "flora":  # which draws A by the layout's digest
        as_matrices, found = (np.concatenate([vector[:6], vector[18:]]) for vector in (as_matrices, found))
    assert np.array_equal(found, as_matrices)


@every_strategy
@few
@shapes
def test_the_same_comes_out_of_the_same_and_nothing_is_changed_in_place(
    strategy: Strategy, **shape: int
) -> None:
    case = Case(strategy, **shape)
    sent = [case.encoded(case.trained()) for _ in range(3)]
    given_state, given_vectors = copy.deepcopy(case.state), copy.deepcopy(sent)
    check_equal(case.merged(sent), case.merged(sent))
    check_equal(case.state, given_state)
    assert np.array_equal(sent, given_vectors)


@every_strategy
def test_a_state_that_was_saved_goes_on_as_one_that_was_not(
    strategy: Strategy, tmp_path: Path, tiny_folder: Path
) -> None:
    case = Case(strategy, rank=2, rows=5, columns=6, seed=0)
    sent = [case.encoded(case.trained()) for _ in range(3)]
    manifest = Manifest(
        run="r",
        job=tiny.job(tiny_folder),
        cohort=1,
        labels=(),
        model_digest="",
        layout_digest=case.layout.digest,
    )
    folder = RunFolder.create(
        tmp_path / "run",
        manifest=manifest,
        facts={},
        layout=case.layout,
        state=case.state,
        adapter_config={},
    )
    check_equal(folder.load_state(0, case.layout), case.state)
    case.state = case.merged(sent)
    folder.save_state(1, case.layout, case.state)
    whole = case.merged(sent)
    case.state = RunFolder.open(tmp_path / "run").load_state(1, case.layout)
    check_equal(case.merged(sent), whole)


@every_strategy
def test_it_says_where_it_comes_from(strategy: Strategy) -> None:
    assert re.search(r"\d{4}.*\(arXiv:\d{4}\.\d{4,5}\)$", strategy.paper)


def check_equal(one: State, other: State) -> None:
    assert one.adapter.tobytes() == other.adapter.tobytes()
    assert one.memory.keys() == other.memory.keys()
    assert all(one.memory[name].tobytes() == other.memory[name].tobytes() for name in one.memory)
