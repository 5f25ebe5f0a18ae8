"""The way to sum that a manifest asks for."""

from __future__ import annotations

from collections.abc import Callable

from protocol.job.layout import AdapterLayout
from protocol.job.manifest import Manifest
from protocol.sums.update_encoding import plan_for_site
from server.sums.homomorphic_sums import HomomorphicSums
from server.sums.masked_sums import MaskedSums
from server.sums.sums import Asking, PlainSums, Sums


def make_sums(
    manifest: Manifest, *, layout: AdapterLayout, take_number: Callable[[], int], ask: Asking
) -> Sums:
    """Raises AggregationError or PlanError for a manifest that no site would agree to."""
    size = layout.update_size
    plan = plan_for_site(manifest, update_size=size) if manifest.job.privacy.unit == "site" else None
    if manifest.job.aggregation.kind == "masks":
        return MaskedSums(manifest, update_size=size, plan=plan, take_number=take_number, ask=ask)
    if manifest.job.aggregation.kind == "homomorphic":
        return HomomorphicSums(manifest, update_size=size, take_number=take_number, ask=ask)
    return PlainSums(manifest, update_size=size, plan=plan)
