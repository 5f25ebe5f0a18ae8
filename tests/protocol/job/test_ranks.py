"""Ranks of the sites' own: in jobs, and in what a smaller adapter is of a larger one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import JobError, ProtocolError
from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.manifest import Manifest, read_manifest
from protocol.job.ranks import job_at, layout_at, narrowed, rank_at, widened, with_named_ranks
from tests import tiny

A, B, HEAD = "l.lora_A.weight", "l.lora_B.weight", "head.weight"


def layout(rank: int, rows: int, columns: int) -> AdapterLayout:
    sizes = {HEAD: (2, 3), A: (rank, columns), B: (rows, rank), "l.residual.weight": (rows, columns)}
    return AdapterLayout(
        slots=tuple(
            TensorSlot(name=name, shape=shape, trained="residual" not in name)
            for name, shape in sorted(sizes.items())
        )
    )


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 5),
    own=st.integers(1, 5),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_padded_update_leads_to_the_product_that_the_site_has(
    rank: int, own: int, rows: int, columns: int, seed: int
) -> None:
    own = min(own, rank)
    whole = layout(rank, rows, columns)
    part = layout_at(whole, own)
    generator = np.random.default_rng(seed)
    adapter = generator.standard_normal(whole.adapter_size).astype(np.float32)
    update = generator.standard_normal(part.update_size).astype(np.float32)
    begun = narrowed(adapter, whole, rank=own)
    assert part.split(begun)[A].tolist() == whole.split(adapter)[A][:own].tolist()
    there = part.split(part.apply(begun, update))
    sent = widened(update, adapter, whole, rank=own)
    here = whole.split(whole.apply(adapter, sent))
    assert sent.shape == (whole.update_size,)
    assert not here[A][own:].any()
    assert not here[B][:, own:].any()
    for name in (HEAD, "l.residual.weight"):
        assert here[name].tobytes() == there[name].tobytes()
    assert here[A][:own].tobytes() == there[A].tobytes()
    assert here[B][:, :own].tobytes() == there[B].tobytes()


def test_a_layout_of_the_same_rank_is_the_same() -> None:
    assert layout_at(layout(3, 4, 5), 3).digest == layout(3, 4, 5).digest
    assert layout_at(layout(3, 4, 5), 2).digest == layout(2, 4, 5).digest


def job(folder: Path, ranks: Any, **changes: Any) -> Any:
    adapter = {"rank": 4, "alpha": 6.0, "ranks": ranks}
    return tiny.job(folder, adapter=adapter, **({"strategy": {"name": "flora"}} | changes))


def test_a_list_is_in_order_of_the_names(tiny_folder: Path) -> None:
    named = with_named_ranks(job(tiny_folder, [1, 2, 3]), ["b", "c", "a"])
    assert named.adapter.ranks == {"a": 1, "b": 2, "c": 3}
    assert with_named_ranks(named, ["a", "b", "c"]) == named


def test_a_site_that_is_not_named_has_the_runs_rank_and_all_are_scaled_alike(tiny_folder: Path) -> None:
    found = job(tiny_folder, {"b": 1})
    assert (rank_at(found, "a"), rank_at(found, "b")) == (4, 1)
    for site, rank in (("a", 4), ("b", 1)):
        own = job_at(found, site).adapter
        assert (own.rank, own.ranks) == (rank, None)
        assert own.alpha / own.rank == 6.0 / 4


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ([1, 2], r"adapter.ranks: expected one of each of 3 sites, .* got 2"),
        ({"z": 1}, r"adapter.ranks: expected names of the run's sites, such as .*'a', .* got 'z'"),
    ],
)
def test_ranks_that_do_not_fit_the_sites_are_refused(ranks: Any, reason: str, tiny_folder: Path) -> None:
    with pytest.raises(JobError, match=reason):
        with_named_ranks(job(tiny_folder, ranks), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("ranks", "changes", "reason"),
    [
        ({"a": 5}, {}, r"adapter.ranks: expected at most adapter.rank=4 each, got 5"),
        ({"a": 0}, {}, r"^adapter.ranks.a: expected greater than or equal to 1, got 0"),
        ({}, {}, r"^adapter.ranks: expected at least 1 of them"),
        (3, {}, r"adapter.ranks: expected \{ SITE = 4 \} or a list"),
        ({"a": 2}, {"strategy": {"name": "ffa"}}, r'adapter.ranks: expected none with strategy.name="ffa"'),
        ({"a": 2}, {"strategy": {"name": "fedex"}}, r"adapter.ranks: expected none with"),
        ({"a": 2}, {"aggregation": {"kind": "masks"}}, r'strategy.name: "flora" needs each site'),
        (
            {"a": 2},
            {
                "strategy": {"name": "hetlora"},
                "compression": {"kind": "random"},
                "privacy": {"mechanism": "none"},
            },
            r'adapter.ranks: expected none with compression.kind="random"',
        ),
        ({"a": 2}, {"strategy": {"name": "hetlora"}}, r'"hetlora" weighs sites by the norm .* public'),
    ],
)
def test_jobs_that_ranks_do_not_go_with_are_refused(
    ranks: Any, changes: dict[str, Any], reason: str, tiny_folder: Path
) -> None:
    with pytest.raises(JobError, match=reason):
        job(tiny_folder, ranks, **changes)


def test_a_manifest_has_ranks_by_name(tiny_folder: Path) -> None:
    rest: dict[str, Any] = {"run": "r", "cohort": 2, "labels": (), "model_digest": "", "layout_digest": ""}
    manifest = Manifest(job=with_named_ranks(job(tiny_folder, [1, 2]), ["a", "b"]), **rest)
    assert rank_at(read_manifest(manifest.content).job, "a") == 1
    with pytest.raises(ProtocolError, match="expected ranks by the sites' names, got a list"):
        Manifest(job=job(tiny_folder, [1, 2]), **rest)


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
def test_products_count_alike_at_every_rank(tiny_folder: Path, scaling: str) -> None:
    job = tiny.job(
        tiny_folder,
        adapter={"rank": 4, "ranks": {"site-1": 1}, "scaling": scaling},
        strategy={"name": "flora"},
        aggregation={"kind": "none"},
    )
    own = job_at(job, "site-1").adapter
    assert own.rank == 1
    assert own.scale_of("l") == pytest.approx(job.adapter.scale_of("l"), rel=1e-12)


def test_of_a_convolution_a_smaller_rank_has_whole_kernels() -> None:
    sizes = {A: (3, 2, 5, 5), B: (4, 3, 1, 1)}
    whole = AdapterLayout(
        slots=tuple(TensorSlot(name=name, shape=shape, trained=True) for name, shape in sizes.items())
    )
    assert {slot.name: slot.shape for slot in layout_at(whole, 2).slots} == {
        A: (2, 2, 5, 5),
        B: (4, 2, 1, 1),
    }
    adapter = np.arange(whole.adapter_size, dtype=np.float32)
    part = layout_at(whole, 2).split(narrowed(adapter, whole, rank=2))
    assert np.array_equal(part[A], whole.split(adapter)[A][:2])
    assert np.array_equal(part[B], whole.split(adapter)[B][:, :2])
    back = widened(np.zeros(layout_at(whole, 2).update_size, np.float32), adapter, whole, rank=2)
    assert np.array_equal(whole.split(whole.apply(adapter, back))[B][:, :2], part[B])
