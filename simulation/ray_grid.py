"""A grid whose sites are in this process and train on Ray's actors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message

from client.site import Site
from client.work import Work
from protocol.messages.flower import unwrap, wrap
from simulation.cohort_grid import begin, finish
from simulation.grid import InProcessGrid
from simulation.ray_crew import Crew
from simulation.round_progress import RoundProgress
from simulation.sites_on_demand import SitesOnDemand


class RayGrid(InProcessGrid):
    """Delivers messages to simulated sites; the steps of those asked to train are taken by a ``crew``.

    Whatever a site keeps is here: its ledger has reserved a round before anybody trains it.
    """

    def __init__(
        self,
        sites: SitesOnDemand,
        crew: Crew,
        *,
        settle: Callable[[], None] | None = None,
        progress: RoundProgress | None = None,
    ) -> None:
        super().__init__(sites, settle=settle, progress=progress)
        self._sites, self._crew = sites, crew

    def _deliver(self, messages: Iterable[Message]) -> Iterator[str]:
        kept: list[str] = []
        begun: dict[int, tuple[Message, Site]] = {}

        def works() -> Iterator[Work]:
            for message in messages:
                site = self._sites.site(message.metadata.dst_node_id)
                found = begin(site, unwrap(message.content))
                if isinstance(found, Work):
                    begun[id(found)] = message, site
                    yield found
                else:
                    self.answered(message.metadata.dst_node_id)
                    kept.append(self.keep(Message(wrap(found), reply_to=message)))

        for work, found in self._crew.train(works()):
            message, site = begun.pop(id(work))
            answer = found if isinstance(found, bytes) else finish(site, work, found)
            self.answered(message.metadata.dst_node_id)
            yield self.keep(Message(wrap(answer), reply_to=message))
            yield from kept
            kept.clear()
        yield from kept
