"""How the sites' answers to one request become one vector, and what the coordinator reads on the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.accounting.plan import SitePlan
from privacy.errors import ProtocolError, RunError
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Evaluate, Evaluated, Joined, Reply, Request, Train, Trained
from protocol.messages.vector import from_bytes
from protocol.sums.sparsification import decode_top
from protocol.sums.update_encoding import round_support, vector_size
from runs.formats import format_count
from runs.metrics import Metrics, SiteMetrics
from server.post.post import Exchange
from server.sums.central_noise import NoisyMean, central_entropy
from server.sums.contributors import Contributors
from strategies.averaging import RunningMean


class Asking(Protocol):
    """Sends requests, checks and takes the answers, as the round loop does."""

    def __call__(
        self,
        requests: Mapping[str, Request],
        number: int,
        *,
        enough: int | None = None,
        side_requests: Mapping[str, Request] | None = None,
    ) -> Exchange: ...


class Sums(Protocol):
    """What the round loop asks of a way to sum. Errors are those of the answers that it reads.

    ``plan`` is that of a run that hides whole sites. ``take_number`` gives a number that no sum of the run
    had; ``ask`` reaches sites.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        update_size: int,
        plan: SitePlan | None,
        take_number: Callable[[], int],
        ask: Asking,
    ) -> None: ...

    def join(self, site: str, joined: Joined) -> None:
        """Take a site in that has joined. Raises ProtocolError if it cannot be."""
        ...

    def prepare(self, members: Collection[str], number: int) -> list[str]:
        """See that round ``number`` can be asked for: those of its members that can contribute to it."""
        ...

    def train(self, request: Train, *, following: Collection[str]) -> Mapping[str, Request]:
        """The request of a round for each site that can contribute.

        ``following`` are those that will be in the next sum, as far as they have joined; none after the
        last one.
        """
        ...

    def evaluate(self, request: Evaluate) -> Mapping[str, Request]:
        """The same for metrics."""
        ...

    def side_requests(self) -> dict[str, Request]:
        """What other members are asked meanwhile, so that they can contribute to the next round."""
        ...

    def take(self, site: str, reply: Reply) -> Reply:
        """Check an answer as it comes, and add its update to the round's sum. What is kept of it.

        It is the last of all checks, since nothing is taken out of a sum again. Raises ProtocolError for an
        answer that cannot be read, and adds nothing then.
        """
        ...

    def aggregate(
        self, trained: Mapping[str, Trained], dealt: Mapping[str, Reply], number: int
    ) -> NDArray[np.float32]:
        """What the strategy makes the next adapter of: the mean of the updates, float32[update_size].

        ``trained`` is what is kept of the answers that were taken since the round was asked for. For a
        strategy that is not linear it is the updates, float32[sites, update_size], in order of the
        sites' names. ``dealt`` answers what was asked aside.
        """
        ...

    def metrics(self, evaluated: Mapping[str, Evaluated], number: int) -> Metrics:
        """What the sites counted."""
        ...


class PlainSums:
    """The coordinator reads every update, and adds it up itself as it comes.

    ``plan`` is that of a run that hides whole sites, by noise that is added here.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        update_size: int,
        plan: SitePlan | None,
        take_number: Callable[[], int],  # noqa: ARG002 - a round has its own number
        ask: Asking,  # noqa: ARG002 - nothing is asked beside updates
    ) -> None:
        self._manifest = manifest
        self._size = update_size
        self._plan = plan
        self._entropy = central_entropy(manifest)
        self._ready: list[str] = []
        self._begin()

    def _begin(self) -> None:
        """A new sum, of nobody yet."""
        self._sites = Contributors()
        self._mean = RunningMean(vector_size(self._manifest.job, self._size))
        self._noisy = NoisyMean(self._plan) if isinstance(self._plan, CentralSitePlan) else None
        self._each: dict[str, NDArray[np.float32]] = {}  # where the strategy wants them all

    def join(self, site: str, joined: Joined) -> None:
        """Nothing is agreed on beforehand."""

    def prepare(self, members: Collection[str], number: int) -> list[str]:  # noqa: ARG002 - any round will do
        self._ready = sorted(members)
        return self._ready

    def train(self, request: Train, *, following: Collection[str]) -> Mapping[str, Request]:  # noqa: ARG002
        self._begin()
        return dict.fromkeys(self._ready, Request(train=request))

    def evaluate(self, request: Evaluate) -> Mapping[str, Request]:
        return dict.fromkeys(self._ready, Request(evaluate=request))

    def side_requests(self) -> dict[str, Request]:
        return {}

    def take(self, site: str, reply: Reply) -> Reply:
        if reply.HasField("evaluated"):
            site_metrics(site, reply.evaluated)
            if self._manifest.job.training.personal_steps:
                personal_metrics(site, reply.evaluated)
        if not reply.HasField("trained"):
            return reply
        self._sites.check_new(site)
        update = self._read(site, reply.trained.update)
        if not self._manifest.job.strategy.linear:
            self._each[site] = update
        elif self._noisy is not None:
            self._noisy.add(update)
        else:
            self._mean.add(update)
        self._sites.add(site)
        return without_update(reply)

    def aggregate(
        self,
        trained: Mapping[str, Trained],
        dealt: Mapping[str, Reply],  # noqa: ARG002 - nothing is dealt
        number: int,
    ) -> NDArray[np.float32]:
        self._sites.check_all(trained)
        each, noisy, mean = self._each, self._noisy, self._mean
        self._begin()
        if not self._manifest.job.strategy.linear:
            return np.stack([spread(self._manifest, each[s], self._size, number) for s in sorted(each)])
        found = mean.mean() if noisy is None else noisy.release(self._entropy(number, 0, "sum"))
        return spread(self._manifest, found, self._size, number)

    def metrics(self, evaluated: Mapping[str, Evaluated], number: int) -> Metrics:  # noqa: ARG002
        own = None
        if self._manifest.job.training.personal_steps:
            own = [personal_metrics(site, answer) for site, answer in evaluated.items()]
        return Metrics.told(
            self._manifest.job.metrics.epsilon,
            {site: site_metrics(site, answer) for site, answer in evaluated.items()},
            personal=None if own is None else SiteMetrics.of(own),
        )

    def _read(self, site: str, update: bytes) -> NDArray[np.float32]:  # noqa: ARG002 - all are as long
        compression = self._manifest.job.compression
        if compression.kind == "top-k":
            return decode_top(update, size=self._size, share=compression.share)
        return from_bytes(update, size=vector_size(self._manifest.job, self._size))


def without_update(reply: Reply) -> Reply:
    """An answer to ``Train`` without its update, whose bytes it no longer holds."""
    trained, kept = reply.trained, Trained(round=reply.trained.round)
    if trained.HasField("receipt"):
        kept.receipt.CopyFrom(trained.receipt)
    if trained.HasField("next"):
        kept.next.CopyFrom(trained.next)
    return Reply(site=reply.site, trained=kept)


def spread(
    manifest: Manifest, values: NDArray[np.float32], update_size: int, number: int
) -> NDArray[np.float32]:
    """A round's mean in the places that it is of: float32[update_size], zero where nothing was sent."""
    support = round_support(manifest, update_size=update_size, number=number)
    return values if support is None else support.spread(values)


def check_enough(members: Collection[str], min_survivors: int, number: int) -> None:
    """Raises RunError if there are too few sites for a round's sum."""
    if len(members) < min_survivors:
        raise RunError(
            f"round {number}: expected at least {format_count(min_survivors, 'site')} for a sum, "
            f"{len(members)} take part"
        )


def site_metrics(site: str, evaluated: Evaluated) -> SiteMetrics:
    """One site's count. Raises ProtocolError for one that cannot be."""
    try:
        return SiteMetrics(right=evaluated.right, examples=evaluated.examples)
    except ValueError as error:
        raise ProtocolError(f"{site} sent metrics that cannot be: {error}") from error


def personal_metrics(site: str, evaluated: Evaluated) -> SiteMetrics:
    """One site's count for its own adapter. Raises ProtocolError for one that is missing or cannot be."""
    if not evaluated.HasField("personal"):
        raise ProtocolError(f"{site} sent no count for its own adapter")
    try:
        return SiteMetrics(right=evaluated.personal, examples=evaluated.examples)
    except ValueError as error:
        raise ProtocolError(f"{site} sent metrics that cannot be: {error}") from error
