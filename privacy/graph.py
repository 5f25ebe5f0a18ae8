"""Who masks with whom: every site with every other, or, among many, with some drawn at random."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Graph:
    """``neighbours`` of each place, in order and without the place itself.

    A site's secrets are shared among its neighbours and itself; ``threshold`` of these give them back.
    """

    neighbours: tuple[tuple[int, ...], ...]
    threshold: int

    def holders(self, place: int) -> tuple[int, ...]:
        """Who holds shares of a place's secrets: its neighbours and itself, in order."""
        return tuple(sorted((*self.neighbours[place], place)))


def make_graph(size: int, *, threshold: int, colluding: int, seed: bytes) -> Graph:
    """The graph of an exchange of ``size`` sites, the same for whoever knows the same 32 bytes of seed."""
    everyone = range(size)
    return Graph(
        neighbours=tuple(tuple(other for other in everyone if other != place) for place in everyone),
        threshold=threshold,
    )
