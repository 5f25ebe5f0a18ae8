"""FedIT's error: what averages of A and of B miss of the mean product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import Strategy, find_strategy
from strategies.fedit import FedIT, averaging_error
from tests import tiny


def layout(rank: int, rows: int, columns: int) -> AdapterLayout:
    return FedIT().lay_out(
        {
            "head.weight": (2, 3),
            "l.lora_A.weight": (rank, columns),
            "l.lora_B.weight": (rows, rank),
            "m.lora_A.weight": (rank, rows),
            "m.lora_B.weight": (columns, rank),
        }
    )


def adapters(form: AdapterLayout, count: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(form.adapter_size).astype(np.float32) for _ in range(count)]


def product(form: AdapterLayout, adapter: np.ndarray, layer: str) -> np.ndarray:
    tensors = form.split(adapter)
    b, a = tensors[f"{layer}.lora_B.weight"], tensors[f"{layer}.lora_A.weight"]
    return b.astype(np.float64) @ a.astype(np.float64)


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 4),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    weights=st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
def test_it_is_the_definition(rank: int, rows: int, columns: int, seed: int, weights: list[int]) -> None:
    form = layout(rank, rows, columns)
    sites = adapters(form, len(weights), seed)
    shares = np.array(weights) / sum(weights)
    found = averaging_error(form, sites, list(shares))
    assert set(found) == {"l", "m"}
    averaged = np.tensordot(shares, np.stack(sites).astype(np.float64), axes=1)
    for layer, error in found.items():
        whole = sum(p * product(form, site, layer) for p, site in zip(shares, sites, strict=True))
        # In float64; the mean of the vectors is not rounded to float32 here, which merging does.
        tensors, start = {}, 0
        for slot in form.slots:
            tensors[slot.name] = averaged[start : start + slot.size].reshape(slot.shape)
            start += slot.size
        missed = whole - tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
        expected = np.linalg.norm(missed) / np.linalg.norm(whole)
        # Some hundred operations of float64 on numbers of about one.
        assert error == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_sites_that_agree_miss_nothing_and_a_frozen_a_neither() -> None:
    form = layout(2, 5, 6)
    one, other = adapters(form, 2, 0)
    assert averaging_error(form, [one, one]) == pytest.approx({"l": 0.0, "m": 0.0}, abs=1e-15)
    assert min(averaging_error(form, [one, other]).values()) > 0.1
    tensors = {name: tensor.copy() for name, tensor in form.split(other).items()}
    tensors |= {name: tensor for name, tensor in form.split(one).items() if ".lora_A." in name}
    assert averaging_error(form, [one, form.join(tensors)]) == pytest.approx({"l": 0, "m": 0}, abs=1e-15)


def test_zero_products_have_no_error() -> None:
    form = layout(2, 5, 6)
    assert averaging_error(form, [np.zeros(form.adapter_size, np.float32)] * 2) == {"l": 0.0, "m": 0.0}


def test_lora_is_another_name_for_it(tiny_folder: Path) -> None:
    assert find_strategy("lora") is FedIT
    assert Strategy.model_validate({"name": "lora"}) == FedIT()
    job = tiny.job(tiny_folder, strategy={"name": "lora"})
    assert job == tiny.job(tiny_folder, strategy={"name": "fedit"})
    assert job.model_dump(mode="json")["strategy"]["name"] == "fedit"
