"""LoRA-FAIR's correction of B: the least of its objective, and never further from the mean product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import JobError
from protocol.job.strategy import State
from strategies.fedit import FedIT
from strategies.lora_fair import LoRAFAIR
from tests import tiny

SHAPES = {"rank": st.integers(1, 4), "rows": st.integers(1, 9), "columns": st.integers(1, 9)}


class Round:
    """Some sites' round, and how far merged products are from the mean of theirs, in float64."""

    def __init__(self, *, rank: int, rows: int, columns: int, seed: int, sites: int = 3) -> None:
        self.layout = FedIT().lay_out(
            {"head.weight": (2, 3), "l.lora_A.weight": (rank, columns), "l.lora_B.weight": (rows, rank)}
        )
        generator = np.random.default_rng(seed)
        size = self.layout.adapter_size
        self.start = generator.standard_normal(size).astype(np.float32)
        self.updates = generator.standard_normal((sites, size)).astype(np.float32)

    def merged(self, penalty: float) -> np.ndarray:
        state = State(adapter=self.start)
        return LoRAFAIR(penalty=penalty).merge(state, self.updates, self.layout, 1).adapter

    def averaged(self) -> np.ndarray:
        return self.layout.apply(self.start, self.updates.mean(axis=0, dtype=np.float64).astype(np.float32))

    def tensors(self, adapter: np.ndarray) -> dict[str, np.ndarray]:
        return {name: tensor.astype(np.float64) for name, tensor in self.layout.split(adapter).items()}

    def product(self, adapter: np.ndarray) -> np.ndarray:
        tensors = self.tensors(adapter)
        return tensors["l.lora_B.weight"] @ tensors["l.lora_A.weight"]

    def residual(self, adapter: np.ndarray) -> float:
        wanted = np.mean([self.product(self.layout.apply(self.start, u)) for u in self.updates], axis=0)
        return float(np.linalg.norm(wanted - self.product(adapter)))


@settings(max_examples=50, deadline=None)
@given(**SHAPES, seed=st.integers(0, 2**32 - 1), sites=st.integers(1, 5), penalty=st.floats(1e-6, 1e3))
def test_the_residual_never_grows(penalty: float, **shape: int) -> None:
    case = Round(**shape)
    before = case.residual(case.averaged())
    # Factors are rounded to float32: products of numbers of about ten, of rank 4, off by some 1e-6 each.
    assert case.residual(case.merged(penalty)) <= before + 1e-4


@settings(max_examples=30, deadline=None)
@given(**SHAPES, seed=st.integers(0, 2**32 - 1))
def test_it_is_where_the_objective_is_least(**shape: int) -> None:
    """The reference solves the least squares that the objective is, with m·n equations, row by row."""
    case, penalty = Round(**shape), 0.3
    averaged, merged = case.tensors(case.averaged()), case.tensors(case.merged(penalty))
    a, b = averaged["l.lora_A.weight"], averaged["l.lora_B.weight"]
    wanted = np.mean([case.product(case.layout.apply(case.start, u)) for u in case.updates], axis=0)
    left = np.concatenate([a.T, np.sqrt(penalty) * np.eye(len(a))])
    right = np.concatenate([(wanted - b @ a).T, np.zeros((len(a), len(b)))])
    expected = b + np.linalg.lstsq(left, right, rcond=None)[0].T
    np.testing.assert_allclose(merged["l.lora_B.weight"], expected, atol=1e-4)
    assert np.array_equal(merged["l.lora_A.weight"], a)
    assert np.array_equal(merged["head.weight"], averaged["head.weight"])


def test_it_helps_and_the_less_the_dearer_it_is() -> None:
    case = Round(rank=2, rows=7, columns=8, seed=0)
    left = [case.residual(case.merged(penalty)) for penalty in (1e-6, 1.0, 1e3)]
    before = case.residual(case.averaged())
    assert left == sorted(left)
    assert left[0] < 0.95 * before
    assert left[-1] == pytest.approx(before, rel=0.01)


@pytest.mark.parametrize(
    "changes", [{"aggregation": {"kind": "masks"}}, {"aggregation": {"kind": "homomorphic"}}]
)
def test_sums_are_refused(tiny_folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r'strategy\.name: "lora_fair" needs each site\'s update'):
        tiny.job(tiny_folder, strategy={"name": "lora_fair"}, **changes)
