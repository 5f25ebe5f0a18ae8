"""Who signs whose sum it is: every site of a sum, or, where the graph is sparse, some drawn at random.

What is promised rests on one list: honest sites reveal for a list of survivors that a *quorum* signed, and
for no other. Each honest site signs one list a sum, so two lists take two quorums, of which only colluding
sites are in both. With x of these among m that may sign, no two lists come about if 2 · quorum > m + x.

Where all may sign, m is the number of sites, and the quorum is the threshold. A committee has x or more
colluding members with probability 2^-104 at most, over seeds as the graph's, and the same may collude.
Those who dropped out are too many for a quorum with probability 2^-20 at most; then the sum fails, and the
next one has another committee.

Source: the counting is that of quorum systems (Malkhi and Reiter 1998, "Byzantine quorum systems", masking
quorums); tails are hypergeometric, as in ``privacy.secagg.graph``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

from privacy.secagg.graph import PRIVACY_BITS, SUM_BITS, assumed_colluding, shuffle
from privacy.secagg.hypergeometric import least_fitting, least_rare, ways


@dataclass(frozen=True, kw_only=True)
class Committee:
    """The ``places`` whose sites may sign, in order, and how many of them must."""

    places: tuple[int, ...]
    quorum: int


def everyone(size: int, *, threshold: int) -> Committee:
    """All sites, of which ``threshold`` sign."""
    return Committee(places=tuple(range(size)), quorum=threshold)


def make_committee(
    size: int, *, threshold: int, colluding: int, seed: bytes, cohort: int | None = None
) -> Committee:
    """The committee of a sum of ``size`` sites, the same for whoever knows the same 32 bytes of seed.

    ``threshold`` is that of the whole sum: all but so many may drop out. Among ``cohort`` sites, the most
    that a sum of the run may have, ``colluding`` are found, as in ``make_graph``. Everyone where no fewer
    than three quarters of the sites would do.
    """
    found = find_committee(
        size,
        dropping=size - threshold,
        colluding=assumed_colluding(max(size, cohort or size), colluding),
        privacy_bits=PRIVACY_BITS,
        sum_bits=SUM_BITS,
    )
    if found is None:
        return everyone(size, threshold=threshold)
    members, quorum = found
    # Not the graph's own order: whom a site masks with says nothing of who signs.
    order = shuffle(size, seed=hashlib.sha256(b"confide committee" + seed).digest())
    return Committee(places=tuple(sorted(order[:members])), quorum=quorum)


@lru_cache(maxsize=64)
def find_committee(
    size: int, *, dropping: int, colluding: int, privacy_bits: int, sum_bits: int
) -> tuple[int, int] | None:
    """How many members fail as rarely as asked, and their quorum; None if it takes three quarters or more.

    A committee can have two lists signed with a probability of ``2^-privacy_bits`` at most, and has no
    quorum left with ``2^-sum_bits``.
    """

    def fitting(members: int) -> int | None:
        among = least_rare(size, marked=colluding, draws=members, bits=privacy_bits) - 1
        quorum = (members + among) // 2 + 1
        missing = ways(size, marked=dropping, draws=members, least=members - quorum + 1)
        fits = quorum <= members and missing << sum_bits <= math.comb(size, members)
        return quorum if fits else None

    return least_fitting(fitting, most=3 * size // 4)
