"""What a site does with a run's last adapter: steps of its own from there, and counts under noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.local_round import adapter_at_end, keep_adapter, norm_before
from client.reservation import reserve
from client.session import Session
from client.training.cancellation import Between
from client.training.counted import count_right
from client.training.together import Share
from privacy.accounting.sampled_plan import SampledPlan
from privacy.ledger.receipt import Receipt
from privacy.mechanisms.rng import Entropy, NoisePurpose, NoiseSource
from protocol.messages import confide_pb2 as pb


def measure(
    session: Session,
    plan: SampledPlan,
    request: pb.Evaluate,
    *,
    site: str,
    keyed: bool,
    entropy: Entropy,
    between: Between,
) -> tuple[pb.Evaluated, Receipt, Receipt | None]:
    """Count what the site's examples say of the last adapter: the answer, and what to sign for it.

    That is a receipt for the count, and one for the site's own steps if it took any.

    Where a job has ``training.personal_steps``, the site first takes these from the last adapter, and
    counts for what comes of them, too. They have the noise of all the run's steps and are charged as they
    are, out of the run's own plan. Without noise the adapter would be free only while nothing told of it;
    but its count does, and then one example would move every other's answer. ``plan`` is the metrics'.
    """
    training, examples = session.manifest.job.training, session.materials.examples
    adapted, last = session.materials.trainer.adapted, training.rounds
    adapter = adapter_at_end(session, request)
    # First: a site that has answered once refuses here, and takes no step for nothing.
    receipt = reserve(session, plan, last, site=site, keyed=keyed, purpose="metrics")
    adapters, own_steps = [adapter], None
    if training.personal_steps:
        own_steps = reserve(
            session, session.plan, last + 1, site=site, keyed=keyed, steps=training.personal_steps
        )
        adapters.append(_personal(session, adapter, entropy=entropy, between=between))
        keep_adapter(session, adapters[-1])
    counts = [count_right(adapted, one, examples) for one in adapters]
    source = entropy(last, 0, "metrics")
    # One release for the plan's ε: an example moves each count, and so their noise is for all together.
    right, *personal = [
        replace(count, bound=len(counts) * count.bound).release(plan.mechanism, source) for count in counts
    ]
    evaluated = session.sums.contribute_count(
        right, len(examples), request, personal=personal[0] if personal else None
    )
    return evaluated, receipt, own_steps


def _personal(
    session: Session, adapter: NDArray[np.float32], *, entropy: Entropy, between: Between
) -> NDArray[np.float32]:
    """The adapter after the site's own steps, float32[adapter_size]: a round that nobody sees.

    Its learning rate begins where the run's first round did.
    """
    training, materials = session.manifest.job.training, session.materials

    def after_the_run(_round_number: int, step: int, purpose: NoisePurpose) -> NoiseSource:
        return entropy(training.rounds + 1, step, purpose)

    share = Share(
        adapter=adapter,
        examples=materials.examples,
        plan=session.training,
        hidden=session.hidden,
        entropy=after_the_run,
        activations=materials.activations if materials.activations.work else None,
        between=between,
        adaptive=norm_before(session, session.memory.newest()),
    )
    own = training.model_copy(update={"rounds": 1, "local_steps": training.personal_steps})
    share.train(materials.trainer, training=own, round_number=1)
    return materials.trainer.adapted.now()
