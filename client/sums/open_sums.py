"""The way to sum that a manifest asks for, at a site."""

from __future__ import annotations

from collections.abc import Mapping

from client.sums.homomorphic_site import HomomorphicSite
from client.sums.masked_site import MaskedSite
from client.sums.plain_site import PlainSite
from client.sums.site_sums import SiteSums
from client.sums.sum_session import Party
from privacy.accounting.plan import Plan
from privacy.ledger.ledger import Ledger
from protocol.job.manifest import Manifest

_KINDS: Mapping[str, type[SiteSums]] = {
    "masks": MaskedSite,
    "homomorphic": HomomorphicSite,
    "none": PlainSite,
}


def open_sums(
    manifest: Manifest, *, update_size: int, plan: Plan, party: Party, ledger: Ledger
) -> SiteSums:
    """A site's part in a run's sums. Raises what ``SiteSums.for_party`` raises."""
    kind = _KINDS[manifest.job.aggregation.kind]
    return kind.for_party(manifest, update_size=update_size, plan=plan, party=party, ledger=ledger)
