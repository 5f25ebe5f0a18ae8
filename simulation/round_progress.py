"""How far the training of a round is: counted by the answers that come, and told to whoever watches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from client.training.together import Share
from protocol.job.training_section import TrainingSection
from runs.progress import Progress


class RoundProgress:
    """Counts the sites of a round that have trained.

    Sites that train together are all done at once: of these their steps are counted meanwhile. What is told
    of examples is the number that is expected of every site, and says nothing of who was drawn.
    """

    def __init__(self, listener: Progress, training: TrainingSection) -> None:
        self._listener = listener
        self._examples = training.batch_size * training.local_steps
        self._share_done: dict[int, float] = {}  # of each node that was asked and has not answered
        self._sites = 0

    def begin(self, nodes: Collection[int]) -> None:
        """These nodes are asked to train; those of the round before no longer count."""
        self._sites, self._share_done = len(nodes), dict.fromkeys(nodes, 0.0)
        self._tell()

    def answered(self, node: int) -> None:
        """A node has answered, whatever it was asked."""
        if self._share_done.pop(node, None) is not None:
            self._tell()

    def watched(self, share: Share, node: int) -> Share:
        """A site's part of a training together, whose steps are counted."""

        def between(step: int, steps: int) -> None:
            share.between(step, steps)
            if step:
                self._share_done[node] = step / steps
                self._tell()

        return replace(share, between=between)

    def _tell(self) -> None:
        waiting = list(self._share_done.values())  # whole, whichever thread changes it
        done = self._sites - len(waiting) + sum(waiting)
        self._listener.training(done, sites=self._sites, examples=self._examples)
