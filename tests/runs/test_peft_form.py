"""An adapter in PEFT's form: the same products, of pairs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.job.adapter_section import AdapterSection
from runs.peft_form import load_tensors, peft_config, peft_tensors, save_tensors

sizes = given(
    rank=st.integers(1, 4),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)


def drawn(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    named = {f"l.lora_{half}.weight": shape for half, shape in shapes.items()}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in named.items()}


def product(tensors: dict[str, np.ndarray]) -> np.ndarray:
    first, last = (tensors[f"l.lora_{half}.weight"].astype(np.float64) for half in "AB")
    return last.reshape(last.shape[:2]) @ first.reshape(len(first), -1)


@settings(max_examples=40, deadline=None)
@sizes
def test_a_core_is_in_b(rank: int, rows: int, columns: int, seed: int) -> None:
    tensors = drawn(seed, A=(rank, columns), B=(rows, rank), C=(rank, rank))
    found = peft_tensors(tensors, begun=None)
    assert found.keys() == {"l.lora_A.weight", "l.lora_B.weight"}
    core = tensors["l.lora_C.weight"].astype(np.float64)
    expected = tensors["l.lora_B.weight"].astype(np.float64) @ core @ tensors["l.lora_A.weight"]
    # B · C is rounded to float32 once: sums of four products of numbers that are a few units large.
    np.testing.assert_allclose(product(found), expected, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
@settings(max_examples=25, deadline=None)
@sizes
def test_what_an_adapter_began_as_is_subtracted(
    kernel: tuple[int, ...], rank: int, rows: int, columns: int, seed: int
) -> None:
    shapes = {"A": (rank, columns, *kernel), "B": (rows, rank, *(1 for _ in kernel))}
    tensors, begun = drawn(seed, **shapes), drawn(seed + 1, **shapes)
    found = peft_tensors(tensors, begun=begun)
    assert found["l.lora_A.weight"].shape == (2 * rank, columns, *kernel)
    np.testing.assert_allclose(product(found), product(tensors) - product(begun), atol=1e-12)


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
@pytest.mark.parametrize("layer", ["query", "value", "key"])
def test_at_twice_the_rank_the_scale_is_the_same(scaling: Any, layer: str) -> None:
    section = AdapterSection(
        target_modules=["query"],
        rank=3,
        alpha=5.0,
        scaling=scaling,
        init="pissa",
        rank_pattern={"query": 7},
        alpha_pattern={"value": 2.0},
    )
    plain = {"r": 3, "lora_alpha": 5.0, "target_modules": {"b", "a"}}
    table = peft_config(plain, section)
    twice = section.model_copy(
        update={
            "rank": table["r"],
            "alpha": table["lora_alpha"],
            "rank_pattern": table["rank_pattern"],
            "alpha_pattern": table["alpha_pattern"],
        }
    )
    assert twice.rank_of(layer) == 2 * section.rank_of(layer)
    assert twice.scale_of(layer) == pytest.approx(section.scale_of(layer))
    assert table["target_modules"] == ["a", "b"]
    same = peft_config(plain, section.model_copy(update={"init": "orthonormal"}))
    assert (same["r"], same["lora_alpha"]) == (3, 5.0)


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = drawn(0, A=(2, 3), B=(4, 2), C=(2, 2))
    save_tensors(tmp_path, tensors, begun=None)
    found = load_tensors(tmp_path)
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: tensor.tobytes() for name, tensor in tensors.items()
    }
