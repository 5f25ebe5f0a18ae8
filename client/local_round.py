"""A round as it begins and ends at a site that keeps something of its own from one to the next.

What is kept costs nothing. With ``unit = "example"`` each step clips an example's gradient over **all**
trained tensors together and adds noise to all of them, those that stay at the site too, whatever a rule
sends. It must: the gradient of what is sent depends on what stays, so a tensor trained without noise would
carry examples into every later update, uncharged. So all that is kept is made of noisy steps, each of which
the ledger has charged, and of what the coordinator sent: post-processing. Keeping a tensor back makes a run
no cheaper, either: the steps are what is charged, and not the numbers that leave. With ``unit = "site"``
steps have no noise, what is kept is as private as the data, and what is sent is clipped as a whole, with
noise in the sum: the bound holds whatever the site had kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.control_variate import drift_of, own_variate, uncorrected
from client.session import Session
from client.site_memory import Kept
from client.sums.update_norm import within_norm
from client.training.adaptive_norm import AdaptiveNorm
from privacy.errors import ProtocolError
from privacy.mechanisms.clipping import clip
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import from_bytes, vector_digest

# Names of what is kept; the adapter is for the site's custodian.
_LOCAL, _VARIATE, _NORM, ADAPTER = "local", "variate", "norm", "adapter"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a round's steps begin: the ``adapter``, float32[adapter_size], the site's own tensors in it.

    ``drift``, float32[update_size], is added to each step's noisy gradient; None for nothing. ``adaptive``
    is the clipping norm, where steps move it.
    """

    adapter: NDArray[np.float32]
    drift: NDArray[np.float32] | None = None
    adaptive: AdaptiveNorm | None = None


def begin_round(session: Session, request: pb.Train) -> Start:
    """What a request asks a site to train.

    Raises ProtocolError for vectors of another size, and for a first adapter that is not the manifest's,
    RunError where a device of the site's cannot be used.
    """
    job, layout = session.manifest.job, session.layout
    begun = session.manifest.start_digest
    if begun and request.round == 1 and vector_digest(request.adapter) != begun:
        raise ProtocolError("the first round's adapter is not the one whose digest the manifest has")
    sent = session.adapter(request.adapter)
    # Nothing is charged for a round that cannot be computed.
    session.materials.trainer.devices.ready(session.materials.examples)
    if not session.keeps:
        return Start(adapter=sent)
    kept = session.memory.before(request.round)
    drift = None
    if job.strategy.corrects and request.beside:
        mean = from_bytes(request.beside, size=layout.update_size)
        own = _sized(kept, _VARIATE, layout.update_size)
        drift = drift_of(mean, own, training=job.training, round_number=request.round)
    adaptive = norm_before(session, kept)
    return Start(adapter=_with_own(session, sent, kept), drift=drift, adaptive=adaptive)


def norm_before(session: Session, kept: Kept) -> AdaptiveNorm | None:
    """The clipping norm that a site has kept, or the job's own before any step; None where it is fixed."""
    privacy = session.manifest.job.privacy
    if privacy.clipping_quantile is None:
        return None
    found = _sized(kept, _NORM, 2)
    value, steps = (privacy.clipping_norm, 0) if found is None else (float(found[0]), int(found[1]))
    return AdaptiveNorm(quantile=privacy.clipping_quantile, value=value, steps=steps)


def adapter_at_end(session: Session, request: pb.Evaluate) -> NDArray[np.float32]:
    """The adapter after the last round as this site has it, float32[adapter_size], kept for its custodian.

    Raises ProtocolError for a vector of another size.
    """
    layout, after = session.layout, session.manifest.job.training.rounds + 1
    sent = session.adapter(request.adapter)
    if not layout.local_size:
        return sent
    adapter = _with_own(session, sent, session.memory.before(after))
    keep_adapter(session, adapter)
    return adapter


def keep_adapter(session: Session, adapter: NDArray[np.float32]) -> None:
    """Keep what the site has after the run for its custodian: float32[adapter_size]."""
    after = session.manifest.job.training.rounds + 1
    session.memory.keep({**session.memory.before(after), ADAPTER: adapter}, round_number=after)


def end_round(
    session: Session, start: Start, trained: NDArray[np.float32], *, site: str, round_number: int
) -> NDArray[np.float32]:
    """What leaves of a round, float32[update_size], weighted, once what stays is on the disk.

    ``trained`` is what ``Trainer.update`` makes of a round. What is not finite is not kept: then the site
    goes on from what it had.
    """
    size, training = session.layout.update_size, session.manifest.job.training
    update, local, norm = np.split(trained, [size, size + session.layout.local_size])
    corrects = session.manifest.job.strategy.corrects
    if corrects:
        update = uncorrected(update, start.drift, training=training, round_number=round_number)
    update = within_norm(update, training.update_norm)
    if not session.keeps:
        return _weighted(session, update, site)
    kept = dict(session.memory.before(round_number))
    if corrects:
        # Of what is sent, as the coordinator's mean is.
        kept[_VARIATE] = own_variate(update, training=training, round_number=round_number)
    if norm.size:
        kept[_NORM] = norm
    if local.size:
        kept[_LOCAL] = local
        kept[ADAPTER] = session.layout.with_local(start.adapter, local)
    if all(np.isfinite(array).all() for array in kept.values()):
        session.memory.keep(kept, round_number=round_number)
    return _weighted(session, update, site)


def _weighted(session: Session, update: NDArray[np.float32], site: str) -> NDArray[np.float32]:
    """An update times its site's public weight, which is at most 1: float32[update_size].

    So no bound that the grid and the noise of a sum were made for grows: the heaviest site's is what it is
    unweighted, and each other's is smaller. Where a whole site is hidden, it is clipped before it is
    weighted: clipped after it, a light site would be cut less than a heavy one.
    """
    if session.manifest.job.federation.weights is None:
        return update
    if session.plan.hides_sites:
        update = clip(update, bound=session.plan.clipping_norm, norm=2).reals.astype(np.float32)
    return update * np.float32(session.manifest.weight(site))


def _with_own(session: Session, adapter: NDArray[np.float32], kept: Kept) -> NDArray[np.float32]:
    """An adapter with the site's own tensors in their places, as far as it has kept any."""
    local = _sized(kept, _LOCAL, session.layout.local_size)
    return adapter if local is None else session.layout.with_local(adapter, local)


def _sized(kept: Kept, name: str, size: int) -> NDArray[np.float32] | None:
    """A kept array; None if there is none, or if it is of something else."""
    found = kept.get(name)
    return found if found is not None and found.shape == (size,) and size else None
