"""How many bytes a site's replies may have: no more than the job and its adapter can need."""

from __future__ import annotations

from dataclasses import dataclass

from privacy.secagg.ckks.shared_key import KEY_MAX
from protocol.job.manifest import Manifest
from protocol.sums.mask_messages import METRICS_RING
from protocol.sums.sum_kinds import sum_kind

# The envelope and its signature, a receipt, names, and why a site refuses.
_BESIDE = 1 << 16
# What a site tells or deals for each other of its round: a sealed pair of shares, or a share and its place.
_EACH_SITE = 256


@dataclass(frozen=True, kw_only=True)
class ReplyLimits:
    """The limits of one run's replies, whose updates, or counts, are of ``update_size`` numbers."""

    manifest: Manifest
    update_size: int

    def longest(self, kind: str) -> int:
        """How many bytes the reply to a kind of request, such as ``train``, has at most."""
        return _BESIDE + _EACH_SITE * self.manifest.cohort + self._content(kind)

    def _content(self, kind: str) -> int:
        job = self.manifest.job
        if kind == "train":
            return sum_kind(job).longest_update(job, update_size=self.update_size)
        if kind == "open":
            return 4 * self.update_size  # the sum, in float32
        if kind == "count":
            return METRICS_RING.packed_size(self.update_size)
        return KEY_MAX if kind == "deal" else 0
