"""Ranks of each site's own: which there are, and what a smaller adapter is of the run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from privacy.errors import JobError
from protocol.job.job import Job
from protocol.job.layout import FACTOR_A, FACTOR_B, AdapterLayout, TensorSlot
from protocol.plain_text import quoted_some


def with_named_ranks(job: Job, sites: Sequence[str]) -> Job:
    """A job whose ranks are by the names of these sites, as its manifest has them.

    A list is taken in order of the names. Raises JobError for ranks that do not fit the sites.
    """
    ranks, names = job.adapter.ranks, sorted(sites)
    if ranks is None:
        return job
    if isinstance(ranks, list):
        if len(ranks) != len(names):
            raise JobError(
                f"adapter.ranks: expected one of each of {len(names)} sites, in order of their names, got "
                f"{len(ranks)}"
            )
        ranks = dict(zip(names, ranks, strict=True))
    strangers = sorted(ranks.keys() - set(names))
    if strangers:
        raise JobError(
            f"adapter.ranks: expected names of the run's sites, such as {quoted_some(names)}, got "
            f"{quoted_some(strangers)}"
        )
    adapter = job.adapter.model_copy(update={"ranks": dict(sorted(ranks.items()))})
    return job.model_copy(update={"adapter": adapter})


def rank_at(job: Job, site: str) -> int:
    """The rank that a site trains at: the run's, unless it has one of its own."""
    ranks = job.adapter.ranks
    return ranks.get(site, job.adapter.rank) if isinstance(ranks, dict) else job.adapter.rank


def job_at(job: Job, site: str) -> Job:
    """The job that a site's model is made from: of its own rank, and scaled as the run's is.

    B·A counts alpha / rank or alpha / √rank times, which is the same number for all sites then.
    """
    adapter = job.adapter
    if adapter.ranks is None:
        return job
    rank = rank_at(job, site)
    share = rank / adapter.rank
    own = {
        "rank": rank,
        "alpha": adapter.alpha * (share if adapter.scaling == "lora" else share**0.5),
        "ranks": None,
    }
    return job.model_copy(update={"adapter": adapter.model_copy(update=own)})


def layout_at(layout: AdapterLayout, rank: int) -> AdapterLayout:
    """The layout of an adapter of another rank, of the same layers."""

    def at_rank(slot: TensorSlot) -> TensorSlot:
        if slot.name.endswith(FACTOR_A):
            return replace(slot, shape=(rank, *slot.shape[1:]))
        if slot.name.endswith(FACTOR_B):
            return replace(slot, shape=(slot.shape[0], rank, *slot.shape[2:]))
        return slot

    return AdapterLayout(slots=tuple(at_rank(slot) for slot in layout.slots))


def narrowed(adapter: NDArray[np.float32], layout: AdapterLayout, *, rank: int) -> NDArray[np.float32]:
    """What a site of a rank gets of the run's adapter: the first rows of A and columns of B.

    float32[adapter_size] of ``layout`` in, of ``layout_at(layout, rank)`` out. Of a strategy that puts the
    largest directions first, it is the best pair of that rank.
    """

    def part(name: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        if name.endswith(FACTOR_A):
            return tensor[:rank]
        return tensor[:, :rank] if name.endswith(FACTOR_B) else tensor

    parts = {name: part(name, tensor) for name, tensor in layout.split(adapter).items()}
    return layout_at(layout, rank).join(parts)


def widened(
    update: NDArray[np.float32], adapter: NDArray[np.float32], layout: AdapterLayout, *, rank: int
) -> NDArray[np.float32]:
    """A site's update as one of the run's adapter, from which the site had begun at its rank.

    float32[update_size] of ``layout_at(layout, rank)`` in, of ``layout`` out. Where the site had nothing,
    its adapter is padded with zeros: so the update takes away what the run's has there, and the site's
    product is its own.
    """
    before = layout.split(adapter)
    moved = {name: np.negative(tensor) for name, tensor in before.items()}
    for name, change in layout_at(layout, rank).split_update(update).items():
        moved[name][tuple(slice(length) for length in change.shape)] = change
    return np.concatenate([moved[slot.name].ravel() for slot in layout.slots if slot.sent])
