"""Noise that a trusted coordinator adds to the sum, so that its adapter hides each site as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.mechanisms.clipping import Clipped, clip
from privacy.mechanisms.rng import Entropy, NoiseSource, fresh_entropy, keyed_entropy
from privacy.secagg.encoding import Encoding
from privacy.secagg.ring import Words
from protocol.job.manifest import Manifest
from protocol.processes.time_spent import Part, timed


def central_entropy(manifest: Manifest) -> Entropy:
    """Fresh noise for every round; in a simulation that asks for it, noise that repeats."""
    seed = manifest.job.seeds.noise
    return fresh_entropy if seed is None else keyed_entropy(seed, "coordinator")


def noisy_mean(
    updates: Iterable[NDArray[np.float32]], *, plan: CentralSitePlan, source: NoiseSource
) -> NDArray[np.float32]:
    """The mean of one site's update or more, float32[d] each, with the plan's noise in their sum.

    Each is clipped to ``plan.clipping_norm`` here, whatever its site did, and added up on a grid: see
    ``privacy.mechanisms.clipping``. The noise hides one site in the sum, so it is as many times
    smaller in the mean as there are sites.
    """
    parts = [clip(update, bound=plan.clipping_norm, norm=2) for update in updates]
    summed = reduce(Clipped.joined, parts)
    with timed(Part.NOISE):
        released = plan.mechanism.release(summed, source)
    return (released / len(parts)).astype(np.float32)


def noisy_decoded_mean(
    words_of_sum: Words, *, encoding: Encoding, plan: CentralSitePlan, count: int, source: NoiseSource
) -> NDArray[np.float32]:
    """The same of a sum that was taken under masks: its integers get the noise, before they are decoded.

    Raises ProtocolError for words of another length.
    """
    longest = encoding.sensitivity(plan.clipping_norm).l2
    summed = Clipped(value=encoding.centred(words_of_sum), bound=longest, norm=2, steps=longest)
    with timed(Part.NOISE):
        released = plan.mechanism.release(summed, source)
    return encoding.decode(released, count=count)
