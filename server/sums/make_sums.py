"""The way to sum that a manifest asks for, at the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocol.job.layout import AdapterLayout
from protocol.job.manifest import Manifest
from protocol.sums.update_encoding import plan_for_site
from server.sums.homomorphic_sums import HomomorphicSums
from server.sums.masked_sums import MaskedSums
from server.sums.ranked_sums import RankedSums
from server.sums.sums import Asking, PlainSums, Sums

_KINDS: Mapping[str, type[Sums]] = {
    "masks": MaskedSums,
    "homomorphic": HomomorphicSums,
    "none": PlainSums,
}


def make_sums(
    manifest: Manifest, *, layout: AdapterLayout, take_number: Callable[[], int], ask: Asking
) -> Sums:
    """Raises AggregationError or PlanError for a manifest that no site would agree to."""
    if manifest.job.adapter.ranks is not None:
        return RankedSums(manifest, layout=layout, take_number=take_number, ask=ask)
    size = layout.update_size
    plan = plan_for_site(manifest, update_size=size) if manifest.job.privacy.hides_sites else None
    kind = _KINDS[manifest.job.aggregation.kind]
    return kind(manifest, update_size=size, plan=plan, take_number=take_number, ask=ask)
