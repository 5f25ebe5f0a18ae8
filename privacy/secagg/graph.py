"""Who masks with whom: every site with every other, or, among many, with some drawn at random.

Up to 100 sites, and wherever less would not spare a quarter of the masks, the graph is complete: what it
promises holds for certain. Else the sites sit around a circle in an order that the seed shuffles, and each
is a neighbour of the ``degree / 2`` next ones on either side. What that promises fails with a probability.

*Privacy.* Say that no honest site has ``threshold - degree/2 - 1`` or more colluding ones among the next
``degree / 2`` on either side. Then, whoever is said to have dropped out:

- Fewer than ``2 · threshold - (degree + 1)`` of a site's ``degree + 1`` holders collude. So not both of its
  secrets can be had, even if every honest holder were told of other survivors. It is more than what one
  signed list of survivors asks for: that fewer than ``threshold`` collude.
- The sum of the honest survivors that mask for the list's own cohort falls into no smaller sums. Sites
  whose pair masks cancel out among themselves would be a stretch of the circle, and none of the others
  would be among the ``degree / 2`` places after its end. Then at most ``degree / 2`` holders on the other
  side, the site at the end, and those that collude on this side reveal its seed: fewer than ``threshold``.
  Its self mask stays on.
- A site that was shown another cohort is not read. Its seed takes ``threshold`` of its holders that reveal
  for the list or collude, and it is not one of them. Of the ``threshold - 1`` or more neighbours in its
  cohort none may survive in the list and be honest, or that pair mask stays on. Together these are
  ``2 · threshold - 1`` of its ``degree`` neighbours, where those that collude count twice: too many of them
  collude, by the first.

The last two need two things of a site: that it masks for no cohort with fewer than ``threshold`` of its own
holders, itself among them, and that it reveals for the one list of survivors that a quorum signed
(``privacy.secagg.committee``). A seed fails with probability 2^-104 at most: a coordinator chooses what the
seed is a digest of, and may try 2^64 of them, of which then one fails with 2^-40. As many as ``colluding``
may collude, or a tenth of a run's sites where that is more: a complete graph withstands many whom
``colluding = 0`` does not ask for, a sparse one only those that it was made for. It is a tenth of all that
a run may have in a sum, whoever is in it: a coordinator that says who takes part leaves out honest sites.
Who colludes is settled before the seed is.

*Sums.* ``size - threshold`` sites may drop out, at any time, chosen without regard to the graph. Then some
site's secret cannot be had with probability 2^-20 at most. A coordinator that chooses them can only spoil
its own sum.

Source: Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (eprint
2020/704), for the shuffled circle and its union bounds; the argument on stretches is our own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from privacy.errors import AggregationError
from privacy.mechanisms.rng import ChaCha20Source
from privacy.secagg.hypergeometric import least_fitting, least_rare, ways

COMPLETE_UP_TO = 100
# A complete graph of more sites takes hundreds of megabytes at each of them, and gigabytes at 10,000.
COMPLETE_MAX = 2500
# In bits: a probability of 2^-40 that privacy fails, over 2^64 seeds; and of 2^-20 that a sum does.
PRIVACY_BITS = 40 + 64
SUM_BITS = 20


@dataclass(frozen=True, kw_only=True)
class Graph:
    """``neighbours`` of each place, in order and without the place itself.

    A site's secrets are shared among its neighbours and itself; ``threshold`` of these give them back.
    """

    neighbours: tuple[tuple[int, ...], ...]
    threshold: int

    @property
    def sparse(self) -> bool:
        """Whether some sites do not mask with each other."""
        return len(self.neighbours[0]) < len(self.neighbours) - 1

    def holders(self, place: int) -> tuple[int, ...]:
        """Who holds shares of a place's secrets: its neighbours and itself, in order."""
        return tuple(sorted((*self.neighbours[place], place)))


@dataclass(frozen=True, kw_only=True)
class Circle:
    """How many neighbours a site has on a circle, an even number; ``threshold`` as in ``Graph``."""

    degree: int
    threshold: int


def make_graph(
    size: int, *, threshold: int, colluding: int, seed: bytes, cohort: int | None = None
) -> Graph:
    """The graph of a sum of ``size`` sites, the same for whoever knows the same 32 bytes of seed.

    ``threshold`` is that of the whole sum: all but so many may drop out. ``colluding`` sites may work
    with the coordinator. ``cohort`` is the most sites that a sum of the run may have, ``size`` unless it is
    more: a graph of fewer is sparse only where that of all is, and as many may collude in it. Raises
    AggregationError for more of ``threshold`` or ``colluding`` than there are sites.
    """
    _check(size, threshold=threshold, colluding=colluding)
    cohort = max(size, cohort or size)
    if not is_sparse(cohort, threshold=threshold, colluding=colluding):
        return complete_graph(size, threshold=threshold)
    circle = _circle(size, threshold=threshold, colluding=assumed_colluding(cohort, colluding))
    if circle is None:
        return complete_graph(size, threshold=threshold)
    return join_around(shuffle(size, seed=seed), circle)


def is_sparse(cohort: int, *, threshold: int, colluding: int) -> bool:
    """Whether in sums of ``cohort`` sites some do not mask with each other: what they promise may fail."""
    return _circle(cohort, threshold=threshold, colluding=assumed_colluding(cohort, colluding)) is not None


def assumed_colluding(cohort: int, colluding: int) -> int:
    """How many may collude where what is promised is a probability: those asked for, or a tenth if more.

    ``cohort`` is the most sites that a sum of the run may have. A tenth of those in one sum would be less,
    and the coordinator says who they are.
    """
    return max(colluding, cohort // 10)


def complete_graph(size: int, *, threshold: int) -> Graph:
    """The graph in which every site masks with every other. Raises AggregationError above 2,500 sites."""
    if size > COMPLETE_MAX:
        raise AggregationError(
            f"expected {COMPLETE_MAX} sites at most where each masks with every other, got {size}: ask for "
            "fewer colluding sites, or for fewer sites",
            rule="cohort",
        )
    everyone = tuple(range(size))
    return Graph(
        neighbours=tuple(everyone[:place] + everyone[place + 1 :] for place in everyone),
        threshold=threshold,
    )


@lru_cache(maxsize=64)
def find_circle(
    size: int, *, dropping: int, colluding: int, privacy_bits: int, sum_bits: int
) -> Circle | None:
    """The circle of the least degree that fails as rarely as asked; None if it saves less than a quarter.

    Of ``size`` sites ``colluding`` collude and ``dropping`` drop out; privacy fails with a probability of
    ``2^-privacy_bits`` at most, a sum with ``2^-sum_bits``. In integers, so that every site finds the same.
    """

    def fitting(half: int) -> Circle | None:
        circle = _private_circle(size, half=half, colluding=colluding, bits=privacy_bits)
        fits = circle and _is_summable(size, circle, dropping=dropping, bits=sum_bits)
        return circle if fits else None

    found = least_fitting(fitting, most=3 * (size - 1) // 8)
    return None if found is None else found[1]


def shuffle(size: int, *, seed: bytes) -> list[int]:
    """The places from 0 to ``size - 1`` in an order drawn from the seed, each as likely as the others.

    Fisher and Yates's shuffle as in Durstenfeld 1964, from a ChaCha20 stream under a digest of the seed.
    """
    source = ChaCha20Source(hashlib.sha256(b"confide graph" + seed).digest())
    order = list(range(size))
    for last in range(size - 1, 0, -1):
        other = source.below(last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def join_around(order: Sequence[int], circle: Circle) -> Graph:
    """The graph in which each place in ``order`` is joined to the next on either side of it."""
    size, half = len(order), circle.degree // 2
    twice = [*order, *order]
    neighbours: list[tuple[int, ...]] = [()] * size
    for position, place in enumerate(order):
        after = twice[position + 1 : position + 1 + half]
        before = twice[size + position - half : size + position]
        neighbours[place] = tuple(sorted(before + after))
    return Graph(neighbours=tuple(neighbours), threshold=circle.threshold)


def _check(size: int, *, threshold: int, colluding: int) -> None:
    if not 1 <= threshold <= size or not 0 <= colluding < size:
        raise AggregationError(
            f"expected a threshold from 1 to size={size}, and colluding from 0 to less than it, got "
            f"threshold={threshold}, colluding={colluding}",
            rule="threshold",
        )


def _circle(size: int, *, threshold: int, colluding: int) -> Circle | None:
    """The circle of a sum of ``size`` sites; None where all mask with all."""
    if size <= COMPLETE_UP_TO:
        return None
    return find_circle(
        size,
        dropping=size - threshold,
        colluding=colluding,
        privacy_bits=PRIVACY_BITS,
        sum_bits=SUM_BITS,
    )


def _private_circle(size: int, *, half: int, colluding: int, bits: int) -> Circle | None:
    """The least threshold at which colluding sites crowd next to an honest one with at most ``2^-bits``."""
    honest = size - colluding
    # For two sides of each honest site.
    crowd = least_rare(size - 1, marked=colluding, draws=half, bits=bits, times=2 * honest)
    threshold = half + 1 + crowd
    return Circle(degree=2 * half, threshold=threshold) if threshold <= 2 * half else None


def _is_summable(size: int, circle: Circle, *, dropping: int, bits: int) -> bool:
    """Whether too few holders are left of some site's secrets with probability ``2^-bits`` at most."""
    spare = circle.degree - circle.threshold
    # One that has dropped out does not reveal its own share, and is one of those that have.
    gone = ways(size - 1, marked=dropping - 1, draws=circle.degree, least=spare + 1) if dropping else 0
    alive = ways(size - 1, marked=dropping, draws=circle.degree, least=spare + 2)
    missing = dropping * gone + (size - dropping) * alive
    return missing << bits <= math.comb(size - 1, circle.degree)
