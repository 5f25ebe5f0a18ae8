"""A grid in one process whose sites train together, in batches that they share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from client.refusal import answer_or_refuse
from client.site import Site
from client.training.stacked_gradients import StackedGradients
from client.training.threads import seconds_a_batch
from client.training.together import train_or_nothing
from client.training.training import Trainer
from client.work import Work
from protocol.job.job import Job
from protocol.messages import confide_pb2 as pb
from protocol.messages.flower import unwrap, wrap
from protocol.processes.time_spent import Part, timed
from simulation.grid import InProcessGrid
from simulation.round_progress import RoundProgress
from simulation.sites_on_demand import SitesOnDemand
from tasks.data.shapes import Shapes
from tasks.model.expert_weights import expert_weights

log = logging.getLogger("confide.simulation")

# Sites that train at once: each has an adapter and an update in memory meanwhile.
MOST_TOGETHER = 32
# Rows of a batch that sites share: taller ones were no faster a row.
_TALL = 64
# Together must be faster by this much: a measure of three batches is no better.
_MARGIN = 1.1


class CohortGrid(InProcessGrid):
    """Delivers messages to simulated sites; those asked to train do so together, ``rows`` rows a batch."""

    def __init__(
        self,
        sites: SitesOnDemand,
        *,
        rows: int,
        settle: Callable[[], None] | None = None,
        progress: RoundProgress | None = None,
    ) -> None:
        super().__init__(sites, settle=settle, progress=progress)
        self._sites, self._rows = sites, rows

    def _deliver(self, messages: Iterable[Message]) -> Iterator[str]:
        for some in _groups(iter(messages)):
            yield from self._together(some)

    def _together(self, messages: Sequence[Message]) -> Iterator[str]:
        sites = [self._sites.site(message.metadata.dst_node_id) for message in messages]
        begun = [
            begin(site, unwrap(message.content)) for site, message in zip(sites, messages, strict=True)
        ]
        works = {
            message.metadata.dst_node_id: work
            for message, work in zip(messages, begun, strict=True)
            if isinstance(work, Work)
        }
        updates = iter(self._train(works) if len(works) > 1 else [None] * len(works))
        for message, site, work in zip(messages, sites, begun, strict=True):
            if isinstance(work, Work):
                update = next(updates)
                answer = finish(site, work, update)
            else:
                answer = work
            self.answered(message.metadata.dst_node_id)
            yield self.keep(Message(wrap(answer), reply_to=message))

    def _train(self, works: Mapping[int, Work]) -> Sequence[NDArray[np.float32] | None]:
        """The updates of works, by node; None for those that are to be trained alone, one after another."""
        first, progress = next(iter(works.values())), self._progress
        return train_or_nothing(
            first.session.materials.trainer,
            [
                work.share if progress is None else progress.watched(work.share, node)
                for node, work in works.items()
            ],
            training=first.training,
            round_number=first.request.round,
            rows=self._rows,
        )


@timed(Part.CHECKS)
def rows_together(trainer: Trainer, job: Job, *, sites: int) -> int | None:
    """How high batches are that so many sites of a job share, or None where apart they train as fast.

    None, too, where noise is keyed: such a run repeats bit for bit, with workers and without. Which is
    faster is measured, on made-up examples, by a low batch and a tall one. At each site, one batch of a
    size that occurs is low or partly empty; sites together have one such between them.
    """
    training, public = job.training, trainer.adapted.sizes.public
    stacked = isinstance(trainer.gradients, StackedGradients)
    if sites < 2 or not stacked or job.adapter.dropout or job.seeds.noise is not None:
        return None
    if job.adapter.ranks is not None:  # weights of different shapes do not stack
        return None
    if any(True for _ in expert_weights(trainer.adapted.peft.get_base_model())):
        return None  # how experts round follows from the whole batch: each row would be alone in its batch
    physical = training.physical_batch_size
    apart = Shapes.of(public, batch_size=training.batch_size, physical_batch_size=physical)
    group = min(sites, MOST_TOGETHER)
    # A physical batch is for the memory that there is; a whole batch of the job's is no such limit.
    most = physical if physical < training.batch_size else max(_TALL, training.batch_size)
    together = Shapes.up_to(min(most, group * training.batch_size), sizes=public)
    low, tall = apart.heights_at(public[0])[0], together.heights_at(public[0])[-1]
    if low < 2 or tall <= low:
        return None
    first, second = (seconds_a_batch(trainer.gradients, job, rows=rows) for rows in (low, tall))
    a_row = max(0.0, second - first) / (tall - low)
    a_batch = max(0.0, first - low * a_row)

    def seconds(shapes: Shapes, count: int) -> float:
        # No size is likelier than another, as far as anybody may know.
        expected = [shapes.expected(count / len(public), size) for size in public]
        return sum(batches * a_batch + rows * a_row for batches, rows in expected)

    gain = group * seconds(apart, training.batch_size) / seconds(together, group * training.batch_size)
    log.info("sites together, up to %d rows a batch: %.2f times as fast as apart", tall, gain)
    return tall if gain > _MARGIN else None


def begin(site: Site, content: bytes) -> Work | bytes:
    """The work that a request to train asks for; or the answer to any other, a refusal too."""
    request, begun = pb.Request.FromString(content), list[Work]()
    if not request.HasField("train"):
        return site.answer(content)

    def prepare() -> pb.Reply:
        begun.append(site.prepare(request))
        return pb.Reply()

    refusal = answer_or_refuse(site.name, prepare, candid=True)
    return begun[0] if begun else refusal


def finish(site: Site, work: Work, update: NDArray[np.float32] | None) -> bytes:
    """The answer with an update; where there is none yet, the site trains alone."""

    def complete() -> pb.Reply:
        found = work.train() if update is None else update
        return pb.Reply(site=site.name, trained=site.complete(work, found))

    return answer_or_refuse(site.name, complete, candid=True)


def _groups(messages: Iterator[Message]) -> Iterator[list[Message]]:
    while some := list(islice(messages, MOST_TOGETHER)):
        yield some
