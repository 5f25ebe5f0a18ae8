"""Canaries: made-up examples in the places of a site's own, each in or out by a coin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privacy.errors import UserError
from protocol.job.layout import AdapterLayout
from protocol.job.strategy import Strategy
from tasks.data.examples import Examples

# A canary's gradient is so many times as long as clipping allows: so clipping has to act.
OVERLONG = 4.0
_FEWEST = 8


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Canaries at the ``site``: number k stands in the place of its example ``rows[k]``, int64[m].

    Where ``present[k]``, bool[m], its gradient is a step along coordinate ``places[k]``, int64[m], of the
    update: each has one of its own, so that no canary hides another. Where not, it is blank: it counts as
    an example, may be drawn, and contributes nothing.
    """

    site: str
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    present: NDArray[np.bool_]
    layout: AdapterLayout

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def tensors(self) -> dict[str, NDArray[np.int64]]:
        """By a trained tensor's name, which canaries step along one of its coordinates: int64[k]."""
        slots = [slot for slot in self.layout.slots if slot.trained]
        return {slot.name: np.flatnonzero(self._owners == number) for number, slot in enumerate(slots)}

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Each canary's coordinate within its tensor, laid flat: int64[m]."""
        return np.asarray(self.places - self._starts[self._owners], np.int64)

    @cached_property
    def _owners(self) -> NDArray[np.int64]:
        """The trained tensor, by its number, that each canary steps along: int64[m]."""
        return np.searchsorted(self._starts, self.places, side="right") - 1

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Where each trained tensor begins in an update."""
        sizes = [slot.size for slot in self.layout.slots if slot.trained]
        return np.cumsum([0, *sizes[:-1]], dtype=np.int64)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """A canary's number by the place of its example."""
        return {int(row): number for number, row in enumerate(self.rows)}


def draw_canaries(
    site: str,
    examples: Examples,
    *,
    layout: AdapterLayout,
    strategy: Strategy,
    wanted: int,
    generator: np.random.Generator,
) -> Canaries:
    """So many canaries at a site, fewer where it has fewer examples or an update fewer coordinates.

    Where the strategy turns the basis of LoRA's pairs, coordinates outside them come first: what an adapter
    holds along these can be read to the end. Raises UserError if there is no room for eight.
    """
    room = np.flatnonzero(examples.sizes > 0)
    steady, turning, start = list[int](), list[int](), 0
    for slot in (slot for slot in layout.slots if slot.trained):
        turns = strategy.basis_turns and ".lora_" in slot.name
        (turning if turns else steady).extend(range(start, start + slot.size))
        start += slot.size
    places = np.concatenate([generator.permutation(steady), generator.permutation(turning)])
    count = min(wanted, len(room), len(places))
    if count < _FEWEST:
        raise UserError(
            f"expected room for {_FEWEST} canaries at least, got canaries={wanted}, {len(room)} examples "
            f"that are not blank at {site} and {len(places)} trained numbers: ask for more canaries or "
            "give the site more data"
        )
    return Canaries(
        site=site,
        rows=generator.choice(room, count, replace=False).astype(np.int64),
        places=places[:count].astype(np.int64),
        present=generator.random(count) < 0.5,
        layout=layout,
    )
