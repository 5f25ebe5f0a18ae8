"""Simulated sites that are made when they are asked, and forgotten when others are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

from client.site import Site
from privacy.ledger.ledger_book import BOOK
from protocol.job.draw import cohort_size
from runs.run_folder import RunFolder
from simulation.simulated_federation import World

# Cohorts whose sites are kept: a round's, the two after it, which join and deal meanwhile, and to spare.
_COHORTS = 4


class SitesOnDemand(Mapping[int, Callable[[bytes], bytes]]):
    """What answers for each node, numbered from 1 in the order of the sites' ``names``.

    ``make`` makes a site. No more than ``most`` are kept, those that were asked last; a site that is made
    again is as it is after a restart: its ledger and its key are its own, and it joins a round anew.
    """

    def __init__(
        self, names: tuple[str, ...], make: Callable[[str], Site], *, most: int | None = None
    ) -> None:
        self._names = names
        self._make = make
        self._most = most
        self._made: OrderedDict[str, Site] = OrderedDict()

    def site(self, node: int) -> Site:
        """The site of a node."""
        return self.named(self._names[node - 1])

    def named(self, name: str) -> Site:
        """The site of this name."""
        site = self._made.pop(name, None) or self._make(name)
        self._made[name] = site
        if self._most is not None and len(self._made) > self._most:
            self._made.popitem(last=False)
        return site

    def keep_only(self, names: Collection[str]) -> None:
        """Forget all sites but these, where sites are forgotten at all."""
        if self._most is not None:
            self._made = OrderedDict((name, site) for name, site in self._made.items() if name in names)

    def __getitem__(self, node: int) -> Callable[[bytes], bytes]:
        return partial(self._answer, node)

    def _answer(self, node: int, request: bytes) -> bytes:
        return self.site(node).answer(request)

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, len(self._names) + 1))

    def __len__(self) -> int:
        return len(self._names)


def sites_of_run(world: World, folder: RunFolder) -> SitesOnDemand:
    """The sites of a run, made when they are asked.

    They are forgetful: their secrets of sums would not outlive the coordinator, which asks for new ones
    then. Where they have no folders of their own, there may be many: those of a few cohorts are kept, or
    all if something waits in them that is not sent yet.
    """
    job, most = world.job, None
    if (folder.path / "sites" / BOOK).exists() and job.compression.kind == "none":
        most = _COHORTS * cohort_size(job.federation.cohort, sites=len(world.site_names))
    make = partial(world.site_of_run, folder=folder, forgetful=True)
    return SitesOnDemand(world.site_names, make, most=most)
