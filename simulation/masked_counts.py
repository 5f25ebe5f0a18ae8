"""The sum of simulated sites' noisy counts: under the masks of a run's sums, or in the open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.statistics_site import ROUND, StatisticsSite, asked_to_count
from privacy.errors import AggregationError, ConfideError, RunError, SiteError
from privacy.ledger.receipt import SignedReceipt
from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.ring import Words
from privacy.secagg.roster import Cohort, Roster
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import (
    METRICS_RING,
    make_rules,
    read_dealing,
    read_shares,
    write_cohort,
    write_roster,
)
from runs.formats import format_count

log = logging.getLogger("confide.statistics")

_NUMBER = 1  # of the run's one sum
Told = TypeVar("Told")


class Summed(NamedTuple):
    """The sum of all sites' noisy counts, int64[bins] in units of 2^-30, and each one's receipt."""

    counts: NDArray[np.int64]
    receipts: dict[str, SignedReceipt]


def sum_counts(manifest: Manifest, sites: Mapping[str, StatisticsSite], *, bins: int) -> Summed:
    """Have the sites join, count, and uncover their sum, each step as a coordinator would ask for it.

    A site that refuses is left out, as long as ``manifest.min_survivors`` are left: its reason is the
    SiteError that is raised where too few are.
    """
    if not manifest.job.aggregation.hidden:
        told = _enough(manifest, sites, lambda site: site.count(None), what="counted")
        vectors = [METRICS_RING.unpack(content, size=bins) for content, _ in told.values()]
        total = add_up(vectors, ring=METRICS_RING, size=bins)
    else:
        roster, cohorts = _dealt(manifest, sites)
        among = {name: sites[name] for name in cohorts}

        def count(site: StatisticsSite) -> tuple[bytes, SignedReceipt]:
            return site.count(write_cohort(cohorts[site.name], number=_NUMBER))

        told = _enough(manifest, among, count, what="counted")
        vectors = [METRICS_RING.unpack(content, size=bins) for content, _ in told.values()]
        total = add_up(vectors, ring=METRICS_RING, size=bins)
        total = _uncovered(total, manifest, sites, roster, cohorts, sorted(told))
    receipts = {name: receipt for name, (_, receipt) in sorted(told.items())}
    return Summed(counts=METRICS_RING.centred(total), receipts=receipts)


def join_sites(
    manifest: Manifest, signature: bytes, sites: Mapping[str, StatisticsSite]
) -> dict[str, StatisticsSite]:
    """Those that joined. Raises SiteError where too few do: then none has been charged."""
    joined = _enough(manifest, sites, lambda site: site.join(manifest, signature), what="joined")
    return {name: sites[name] for name in joined}


def _enough(
    manifest: Manifest,
    sites: Mapping[str, StatisticsSite],
    ask: Callable[[StatisticsSite], Told],
    *,
    what: str,
) -> dict[str, Told]:
    """The answers of those that do not refuse. Raises SiteError if they are too few."""
    told: dict[str, Told] = {}
    refused: dict[str, ConfideError] = {}
    for name, site in sites.items():
        try:
            told[name] = ask(site)
        except ConfideError as error:
            log.warning("%s takes no part: %s", name, error)
            refused[name] = error
    if len(told) < manifest.min_survivors:
        name, why = next(iter(refused.items()), ("", RunError("no site is there")))
        raise SiteError(
            f"{format_count(len(told), 'site')} {what}, and it takes {manifest.min_survivors}; "
            f"{name}: {why}",
            exit_code=why.exit_code,
        )
    return told


def _dealt(manifest: Manifest, sites: Mapping[str, StatisticsSite]) -> tuple[Roster, dict[str, Cohort]]:
    """Who masks with whom, and what each gets of the others' secrets, sealed."""
    members = tuple(sites[name].masks.join() for name in sorted(sites))
    roster = Roster(rules=make_rules(manifest), number=_NUMBER, members=members)
    message = write_roster(roster)
    dealings = {name: read_dealing(name, site.masks.deal(message)) for name, site in sites.items()}
    return roster, forward(roster, dealings, asked=asked_to_count(manifest))


def _uncovered(
    total: Words,
    manifest: Manifest,
    sites: Mapping[str, StatisticsSite],
    roster: Roster,
    cohorts: Mapping[str, Cohort],
    survivors: Sequence[str],
) -> Words:
    """The sum without masks, which the survivors confirm and uncover. Raises RunError."""
    digest = manifest.digest
    request = pb.Unmask(manifest_digest=digest, number=_NUMBER, survivors=survivors)
    if roster.rules.confirm:
        confirm = pb.Confirm(manifest_digest=digest, number=_NUMBER, survivors=survivors)
        signers = [name for name in survivors if name in roster.signers][: roster.committee.quorum]
        request.signatures.extend(
            pb.Signed(site=name, signature=sites[name].masks.confirm(confirm)) for name in signers
        )
    shares = {name: read_shares(sites[name].masks.reveal(request)[0], roster) for name in survivors}
    try:
        return unmask(
            total,
            ring=METRICS_RING,
            roster=roster,
            cohort=cohorts[survivors[0]],
            survivors=survivors,
            shares=shares,
        )
    except AggregationError as error:
        raise RunError(f"the sum in round {ROUND} cannot be uncovered: {error}") from error
