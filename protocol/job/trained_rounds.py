"""What sites train and send in each round: what the strategy says, or in some phases the head alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import AdapterLayout
from protocol.job.strategy import State, Strategy


@dataclass(frozen=True, kw_only=True)
class TrainedRounds:
    """A strategy, and the rounds from which to which only the classification head is trained (``heads``).

    In these rounds the head's changes are averaged and added, whatever the strategy does with the rest:
    pairs are neither trained, nor sent, nor refactored. Updates have one length in the whole run; there is
    zero in the places that a round does not fill.

    Source: McMahan et al. 2017 (arXiv:1602.05629), algorithm 1, with one linear layer as the model.
    """

    strategy: Strategy
    heads: tuple[tuple[int, int], ...] = ()

    def head_alone(self, round_number: int) -> bool:
        """Whether only the head is trained in a round, which counts from 1."""
        return any(first <= round_number <= last for first, last in self.heads)

    def trains_in(self, name: str, round_number: int) -> bool:
        """Whether sites train a tensor in a round, by its name in the layout."""
        if self.head_alone(round_number):
            return self.strategy.trains(name) and ".lora_" not in name
        return self.strategy.trains_in(name, round_number)

    def in_round(self, layout: AdapterLayout, round_number: int) -> AdapterLayout:
        """The layout with what is trained in a round; its updates are as long as any."""
        if not self.head_alone(round_number):
            return self.strategy.in_round(layout, round_number)
        return layout.narrowed(lambda name: self.trains_in(name, round_number))

    @property
    def kinds(self) -> tuple[int, ...]:
        """A round of each kind that there is, by what is trained in it: what a check has to look at."""
        cycle, found, number = self.strategy.cycle, dict[int, int](), 1
        while len(found) < cycle:
            if not self.head_alone(number):
                found.setdefault(number % cycle, number)
            number += 1
        return (*(first for first, _ in self.heads[:1]), *found.values())

    def most_trained(self, layout: AdapterLayout) -> int:
        """How many numbers are trained in a round, in the one that trains the most."""
        return self.strategy.most_trained(layout)

    def encode(
        self,
        layout: AdapterLayout,
        before: NDArray[np.float32],
        after: NDArray[np.float32],
        round_number: int,
    ) -> NDArray[np.float32]:
        """What a site sends of the adapter it got and the one it trained: float32[update_size].

        ``layout`` has what the round trains.
        """
        if self.head_alone(round_number):
            return layout.change(before, after)
        return self.strategy.encode(layout, before, after)

    def merge(
        self, state: State, aggregate: NDArray[np.float32], layout: AdapterLayout, round_number: int
    ) -> State:
        """The state after a round, whose ``layout`` has what it trains: see ``Strategy.merge``."""
        if self.head_alone(round_number):
            return replace(state, adapter=layout.apply(state.adapter, aggregate))
        return self.strategy.merge(state, aggregate, layout, round_number)
