"""How updates of a run become integers that can be summed: the same grid at every site and the coordinator.

Everything here follows from the manifest, but for the noise that sites of different sizes add: each tells
its own when it joins, and a round's request repeats the largest.
"""

from __future__ import annotations

import hashlib
import math

from privacy.accounting.central_site_plan import make_central_site_plan
from privacy.accounting.plan import Plan, SitePlan
from privacy.accounting.shared_site_plan import make_shared_site_plan
from privacy.errors import ProtocolError
from privacy.secagg.encoding import Encoding, example_encoding, site_encoding
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.sums.sparsification import Support, draw_support, kept_count, support_seed

# What a coordinate may be of what one step's clipping and learning rate allow the whole update to be. Noise
# is in it: with 32 bits there is room for 64 norms of it, and cutting off more costs accuracy alone.
_ROOM = 64.0
# Adam moves no coordinate by more than a few learning rates a step (Kingma and Ba 2015, section 2.1).
_ADAM = 4.0


def vector_size(job: Job, update_size: int) -> int:
    """How many numbers of an update travel in a sum."""
    if job.compression.kind == "random":
        return kept_count(update_size, job.compression.share)
    return update_size


def round_support(manifest: Manifest, *, update_size: int, number: int) -> Support | None:
    """Which of an update's numbers travel in a round; None where all do."""
    compression = manifest.job.compression
    if compression.kind != "random":
        return None
    seed = support_seed(manifest.digest, number)
    return draw_support(seed, size=update_size, share=compression.share)


def update_noise_std(job: Job, plan: Plan) -> float:
    """The deviation of a coordinate's noise in one site's update under a plan, as far as it is known."""
    if plan.hides_sites or not plan.protects:
        return 0.0
    # Of a run in phases the widest: which phase's noise a round has follows from what was charged before.
    trainings = [phase.training for phase in job.phases]
    if job.training.optimizer == "adam":
        return max(one.learning_rate * one.fastest * math.sqrt(one.local_steps) for one in trainings)
    return max(
        one.learning_rate * one.fastest * math.sqrt(one.local_steps) * plan.noise_std / one.batch_size
        for one in trainings
    )


def update_reach(job: Job) -> float:
    """How far a coordinate of one site's update may reach; what goes beyond it is cut off."""
    if job.training.optimizer == "adam":
        return _ADAM * _steps(job)
    return _ROOM * _steps(job) * job.privacy.bound


def make_encoding(
    manifest: Manifest, *, update_size: int, number: int, noise_std: float = 0.0, plan: Plan | None = None
) -> Encoding:
    """The grid of one sum. ``plan`` is a site's, for ``unit="site"``.

    Raises PlanError where the modulus is too small, ProtocolError for a noise that is no deviation.
    """
    job = manifest.job
    size = vector_size(job, update_size)
    seed = hashlib.sha256(b"confide rotation" + manifest.digest + number.to_bytes(8, "little")).digest()
    if plan is not None and plan.hides_sites:
        return _site_encoding(manifest, size, seed, multiplier=plan.mechanism.multiplier)
    if not (math.isfinite(noise_std) and noise_std >= 0.0):
        raise ProtocolError(f"expected noise_std >= 0 and finite, got noise_std={noise_std}")
    steps = _steps(job)
    # What is not sent waits, on average 1/share rounds: client.residual says how much longer that makes it.
    share = job.compression.share if job.compression.kind == "random" else 1.0
    longer = math.sqrt((2.0 - share) / share)
    if job.training.optimizer == "adam":
        signal = _ADAM * steps * math.sqrt(size)
    else:
        signal = steps * job.privacy.bound
    return example_encoding(
        bits=job.masks.modulus_bits,
        sites=manifest.cohort,
        dimension=size,
        # A Poisson batch may be larger than expected; twice that is beyond chance but for tiny ones.
        signal_l2=2.0 * signal * longer,
        noise_std=noise_std / math.sqrt(share),
        largest=update_reach(job) * longer,
        rotation_seed=seed,
    )


def plan_for_site(manifest: Manifest, *, update_size: int) -> SitePlan:
    """The plan of a run that hides whole sites: the same for every site, and for the coordinator.

    Raises PlanError where no noise, or no modulus, is enough.
    """
    job = manifest.job
    size, colluding = vector_size(job, update_size), job.aggregation.colluding
    if not job.privacy.draws_shares:
        return make_central_site_plan(
            noisy=job.privacy.protects,
            epsilon=job.privacy.epsilon,
            delta=job.privacy.delta,
            clipping_norm=job.privacy.clipping_norm,
            releases=manifest.most_rounds,
        )
    return make_shared_site_plan(
        epsilon=job.privacy.epsilon,
        delta=job.privacy.delta,
        clipping_norm=job.privacy.clipping_norm,
        releases=manifest.most_rounds,
        sensitivity_of=lambda multiplier: _site_encoding(
            manifest, size, bytes(32), multiplier=multiplier
        ).sensitivity(job.privacy.clipping_norm),
        min_survivors=manifest.min_survivors,
        colluding=colluding,
    )


def _steps(job: Job) -> float:
    """How far a round's local steps of length one may go, in the phase where they may go furthest."""
    trainings = [phase.training for phase in job.phases]
    return max(one.learning_rate * one.fastest * one.local_steps for one in trainings)


def _site_encoding(manifest: Manifest, size: int, seed: bytes, *, multiplier: float) -> Encoding:
    job = manifest.job
    # All shares may be in the sum, and fewer of them are counted on.
    honest = manifest.min_survivors - job.aggregation.colluding
    whole = multiplier * math.sqrt(manifest.cohort / honest) if job.privacy.draws_shares else 0.0
    return site_encoding(
        bits=job.masks.modulus_bits,
        sites=manifest.cohort,
        dimension=size,
        clipping_norm=job.privacy.clipping_norm,
        noise_multiplier=whole,
        rotation_seed=seed,
    )
