"""Rules against malicious sites: what they choose, that nothing moves them far, and when they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.errors import JobError, RunError
from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.strategy import State, find_strategy
from strategies import robust
from strategies.robust import Bulyan, Krum, Median, MultiKrum, TrimmedMean
from tests import tiny

NAMES = ["krum", "multi_krum", "bulyan", "trimmed_mean", "median"]
few = settings(max_examples=40, deadline=None)
drawn = given(
    sites=st.integers(7, 12),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    block=st.integers(3, 50),
)


def updates_of(sites: int, size: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((sites, size)).astype(np.float32)


def krum_scores(updates: NDArray[np.float32], malicious: int) -> NDArray[np.float64]:
    """The sum of the squared distances to the n − f − 2 nearest others, by the paper's own words."""
    whole = updates.astype(np.float64)
    distances = np.square(whole[:, None] - whole[None]).sum(axis=2)
    nearest = np.sort(distances + np.diag(np.full(len(whole), np.inf)), axis=1)
    return nearest[:, : len(whole) - malicious - 2].sum(axis=1)


@few
@drawn
def test_krum_takes_the_one_with_the_lowest_score(sites: int, size: int, seed: int, block: int) -> None:
    updates = updates_of(sites, size, seed)
    best = updates[krum_scores(updates, 1).argmin()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust, "_BLOCK", block)
        assert np.array_equal(Krum(malicious=1).combined(updates), best)


@few
@drawn
def test_multi_krum_is_the_mean_of_all_but_the_worst(sites: int, size: int, seed: int, block: int) -> None:
    updates = updates_of(sites, size, seed)
    kept = np.sort(krum_scores(updates, 1).argsort()[:-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust, "_BLOCK", block)
        found = MultiKrum(malicious=1).combined(updates)
    np.testing.assert_allclose(found, updates[kept].mean(axis=0, dtype=np.float64), atol=1e-6)


@few
@drawn
def test_bulyan_is_the_mean_of_what_is_next_to_the_median(
    sites: int, size: int, seed: int, block: int
) -> None:
    updates = updates_of(sites, size, seed)
    left, chosen = list(range(sites)), []
    for _ in range(sites - 2):
        place = int(krum_scores(updates[left], 1).argmin()) if len(left) > 3 else None
        if place is None:  # one neighbour each: the two that are nearest to one another tie
            return
        chosen.append(left.pop(place))
    kept = updates[sorted(chosen)]
    order = np.abs(kept - np.median(kept, axis=0)).argsort(axis=0)[: sites - 4]
    expected = np.take_along_axis(kept, order, axis=0).mean(axis=0, dtype=np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust, "_BLOCK", block)
        np.testing.assert_allclose(Bulyan(malicious=1).combined(updates), expected, atol=1e-5)


@few
@drawn
def test_trimmed_mean_and_median_take_each_number_for_itself(
    sites: int, size: int, seed: int, block: int
) -> None:
    updates = updates_of(sites, size, seed)
    ordered = np.sort(updates.astype(np.float64), axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust, "_BLOCK", block)
        for malicious in range(1, (sites - 1) // 2 + 1):
            found = TrimmedMean(malicious=malicious).combined(updates)
            expected = ordered[malicious : sites - malicious].mean(axis=0)
            np.testing.assert_allclose(found, expected, atol=1e-6)
        found = Median(malicious=1).combined(updates)
    np.testing.assert_allclose(found, np.median(updates, axis=0), atol=1e-6)


def test_a_trimmed_mean_leaves_one_out_of_49() -> None:
    """As floats, 49 times a 49th is less than one, which Flower rounds down."""
    updates = np.zeros((49, 2), np.float32)
    updates[7] = 1.0
    assert not TrimmedMean(malicious=1).combined(updates).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("huge", [1e4, 1e20, 3e38])
def test_one_that_sends_anything_moves_none_of_them(name: str, huge: float) -> None:
    """The others are within 0.1 of ones; a mean would be off by ``huge`` / 7."""
    updates = 1.0 + 0.01 * updates_of(7, 30, 0)
    updates[3] = huge
    found = find_strategy(name).model_validate({"malicious": 1}).combined(updates)  # type: ignore[attr-defined]
    assert np.abs(found - 1.0).max() < 0.1


@pytest.mark.parametrize(("huge", "bad"), [(0, 1), (3, 5), (6, 2)])
def test_a_huge_update_does_not_hide_a_bad_one(huge: int, bad: int) -> None:
    """Two malicious sites: one so large that the others' distances would vanish beside it."""
    updates = 1.0 + 0.01 * updates_of(7, 30, 0)
    updates[huge] = 3e38 * np.sign(updates_of(1, 30, 9)[0])
    updates[bad] = 1.5
    kept = MultiKrum(malicious=2).combined(updates)
    assert np.abs(kept - 1.0).max() < 0.1


def test_the_adapter_moves_by_what_is_chosen() -> None:
    slots = [("l.lora_A.weight", (1, 3), False), ("l.lora_B.weight", (2, 1), True)]
    layout = AdapterLayout(slots=tuple(TensorSlot(name=n, shape=s, trained=t) for n, s, t in slots))
    state = State(adapter=np.arange(5, dtype=np.float32))
    updates = np.array([[1.0, 2.0], [1.0, 3.0], [9.0, 3.5]], np.float32)
    found = Median(malicious=1).merge(state, updates, layout, 1)
    assert found.adapter.tolist() == [0.0, 1.0, 2.0, 3.0 + 1.0, 4.0 + 3.0]
    assert not Median(malicious=1).trains("l.lora_A.weight")


@pytest.mark.parametrize(("name", "least"), zip(NAMES, [5, 5, 7, 3, 3], strict=True))
def test_too_few_updates_are_refused(name: str, least: int) -> None:
    strategy = find_strategy(name).model_validate({"malicious": 1})
    layout = AdapterLayout(slots=(TensorSlot(name="l.lora_B.weight", shape=(2, 1), trained=True),))
    state = State(adapter=np.zeros(2, np.float32))
    strategy.merge(state, np.zeros((least, 2), np.float32), layout, 1)
    with pytest.raises(
        RunError, match=rf"round 4: .*{least} sites, got {least - 1}: set federation.min_sites"
    ):
        strategy.merge(state, np.zeros((least - 1, 2), np.float32), layout, 4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aggregation": {"kind": "masks"}}, "compares each site's update .*training.update_norm"),
        ({"aggregation": {"kind": "homomorphic"}}, "compares each site's update"),
        ({"privacy": {"unit": "site", "noise": "central", "epsilon": 50.0}}, "compares each site's update"),
        ({"federation": {"min_sites": 2}}, r"federation.min_sites: expected [357] or more"),
        ({"strategy": {"malicious": 0}}, "strategy.malicious: expected how many sites"),
    ],
    ids=["masks", "homomorphic", "site", "min_sites", "none"],
)
def test_jobs_that_they_do_not_go_with_are_refused(
    name: str, changes: dict[str, Any], reason: str, tiny_folder: Path
) -> None:
    whole = {"strategy": {"name": name, "malicious": 1}} | changes
    whole["strategy"] = {"name": name, "malicious": 1} | whole["strategy"]
    with pytest.raises(JobError, match=reason):
        tiny.job(tiny_folder, **whole)
    tiny.job(tiny_folder, strategy={"name": name, "malicious": 1})
