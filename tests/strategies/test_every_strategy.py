"""What every strategy promises: each of ours, and two that are written like another package's."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.manifest import Manifest
from protocol.job.strategy import State, Strategy, find_strategy, strategy_names
from runs.run_folder import RunFolder
from tests import tiny
from tests.strategies.median import Median
from tests.strategies.momentum import Momentum

STRATEGIES = [*(find_strategy(name).model_validate({}) for name in strategy_names()), Momentum(), Median()]
ROUNDING = 2.0**-23  # of one float32 operation, relative


def each(strategies: list[Strategy]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("strategy", strategies, ids=lambda strategy: strategy.name)


every_strategy = each(STRATEGIES)
shapes = given(
    rank=st.integers(1, 4),
    rows=st.integers(1, 9),
    columns=st.integers(4, 9),
    seed=st.integers(0, 2**32 - 1),
)
few = settings(max_examples=25, deadline=None)


class Case:
    """One pair and a head, laid out for a strategy, and adapters drawn at random."""

    def __init__(self, strategy: Strategy, *, rank: int, rows: int, columns: int, seed: int) -> None:
        self.strategy = strategy
        sizes = {
            "head.weight": (2, 3),
            "l.lora_A.weight": (rank, columns),
            "l.lora_B.weight": (max(rows, rank), rank),
        }
        self.layout = AdapterLayout(
            slots=tuple(
                TensorSlot(
                    name=name,
                    shape=shape,
                    trained=strategy.trains(name),
                    local=strategy.trains(name) and strategy.keeps(name),
                )
                for name, shape in sizes.items()
            )
        )
        self.generator = np.random.default_rng(seed)
        self.before = self.generator.standard_normal(self.layout.adapter_size).astype(np.float32)
        self.state = strategy.start(self.layout, self.before)

    def trained(self) -> NDArray[np.float32]:
        """What a site may make of the adapter in a round."""
        update = self.generator.standard_normal(self.layout.update_size).astype(np.float32)
        own = self.generator.standard_normal(self.layout.local_size).astype(np.float32)
        return self.layout.with_local(self.layout.apply(self.before, update), own)

    def at_site(self, state: State, after: NDArray[np.float32]) -> NDArray[np.float32]:
        """The adapter of a state as a site has it whose own tensors are those of ``after``."""
        return self.layout.with_local(state.adapter, self.layout.local_part(after))

    def encoded(self, after: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.strategy.encode(self.layout, self.before, after)

    def merged(self, sent: list[NDArray[np.float32]]) -> State:
        """The state after a round in which sites sent these."""
        aggregate = np.stack(sent)
        if self.strategy.linear:
            aggregate = aggregate.mean(axis=0, dtype=np.float64).astype(np.float32)
        return self.strategy.merge(self.state, aggregate, self.layout, 1)

    def meaning(self, adapter: NDArray[np.float32]) -> NDArray[np.float64]:
        """What a model makes of an adapter: the head, and the product of the pair."""
        tensors = {n: t.astype(np.float64) for n, t in self.layout.split(adapter).items()}
        product = tensors["l.lora_B.weight"] @ tensors["l.lora_A.weight"]
        return np.concatenate([tensors["head.weight"].ravel(), product.ravel()])


def close(found: NDArray[np.float64], expected: NDArray[np.float64]) -> bool:
    """Equal but for rounding, of factors to float32 and of few sums: 64 operations of numbers below it."""
    return bool(np.abs(found - expected).max() <= 64 * ROUNDING * max(1.0, np.abs(expected).max()))


@every_strategy
@few
@shapes
def test_what_is_sent_is_as_long_as_the_layout_says(strategy: Strategy, **shape: int) -> None:
    case = Case(strategy, **shape)
    vector = case.encoded(case.trained())
    assert vector.shape == (case.layout.update_size,)
    assert vector.dtype == np.float32


@every_strategy
@few
@shapes
def test_a_zero_update_changes_nothing_that_a_model_computes(strategy: Strategy, **shape: int) -> None:
    case = Case(strategy, **shape)
    nothing = case.encoded(case.before)
    assert not nothing.any()
    assert close(case.meaning(case.merged([nothing]).adapter), case.meaning(case.before))


@every_strategy
@few
@shapes
def test_a_single_site_gets_back_what_it_trained(strategy: Strategy, **shape: int) -> None:
    case = Case(strategy, **shape)
    after = case.trained()
    merged = case.merged([case.encoded(after)])
    assert close(case.meaning(case.at_site(merged, after)), case.meaning(after))


@each([strategy for strategy in STRATEGIES if strategy.linear])
@few
@shapes
def test_the_mean_of_what_is_sent_is_what_the_mean_adapter_sends(strategy: Strategy, **shape: int) -> None:
    """So a sum that nobody reads the parts of is enough."""
    case = Case(strategy, **shape)
    sites = [case.trained() for _ in range(3)]
    mean = np.mean(sites, axis=0, dtype=np.float64).astype(np.float32)
    sent = np.mean([case.encoded(after) for after in sites], axis=0, dtype=np.float64)
    assert close(sent, case.encoded(mean).astype(np.float64))


def error(strategy: Strategy, **shape: int) -> tuple[float, float]:
    """How far a merged adapter is from the mean of what the sites' compute, and how large that is."""
    case = Case(strategy, **shape)
    sites = [case.trained() for _ in range(3)]
    expected = np.mean([case.meaning(after) for after in sites], axis=0)
    found = case.meaning(case.merged([case.encoded(after) for after in sites]).adapter)
    return float(np.abs(found - expected).max()), max(1.0, float(np.abs(expected).max()))


@each([strategy for strategy in STRATEGIES if strategy.exact])
@few
@shapes
def test_an_exact_one_averages_products(strategy: Strategy, **shape: int) -> None:
    off, size = error(strategy, **shape)
    assert off <= 64 * ROUNDING * size


@each([strategy for strategy in STRATEGIES if not strategy.exact])
def test_one_that_does_not_say_so_does_not(strategy: Strategy) -> None:
    off, size = error(strategy, rank=2, rows=5, columns=6, seed=0)
    assert off > 0.01 * size


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
