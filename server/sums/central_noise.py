"""Noise that a trusted coordinator adds to the sum, so that its adapter hides each site as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.errors import ProtocolError
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


class NoisyMean:
    """The mean of sites' updates that come one after another, with the plan's noise in their sum.

    Each is clipped to ``plan.clipping_norm`` here, whatever its site did, and added up on a grid of
    integers: see ``privacy.mechanisms.clipping``. So their order does not matter.
    """

    def __init__(self, plan: CentralSitePlan) -> None:
        self._plan = plan
        self._sum: Clipped | None = None
        self._count = 0

    def add(self, update: NDArray[np.float32]) -> None:
        """Add one site's update, float32[d]."""
        part = clip(update, bound=self._plan.clipping_norm, norm=2)
        self._sum = part if self._sum is None else self._sum.joined(part)
        self._count += 1

    def release(self, source: NoiseSource) -> NDArray[np.float32]:
        """The noisy mean, float32[d]. Raises ProtocolError if nothing was added.

        The noise hides one site in the sum, so it is as many times smaller in the mean as there are sites.
        """
        if self._sum is None:
            raise ProtocolError("expected updates from at least one site, got none")
        with timed(Part.NOISE):
            released = self._plan.mechanism.release(self._sum, source)
        return (released / self._count).astype(np.float32)


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
