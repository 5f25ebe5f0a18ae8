"""No secure aggregation: the coordinator reads each site's update."""

from __future__ import annotations

from collections.abc import Sequence

from privacy.accounting.plan import Plan
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.sums.sparsification import longest_top
from protocol.sums.sum_kind import RoundMessages
from protocol.sums.update_encoding import vector_size

# A number of the largest, with its place.
_GAP_BYTES = 5


class Plain:
    """Updates leave as they are, with the noise that they have."""

    def check(self, manifest: Manifest) -> None:
        """Any cohort will do."""

    def check_size(self, manifest: Manifest, *, update_size: int, plan: Plan | None) -> None:
        """Any update will do."""

    def refusal(self, manifest: Manifest, *, colluding: int) -> str | None:  # noqa: ARG002
        """None: whoever allows this trusts the coordinator with each update."""
        return None

    def who_reads(self, manifest: Manifest) -> str:  # noqa: ARG002 - it is the same of every one
        return "the coordinator reads each of this site's updates"

    def notice(self, manifest: Manifest) -> str:
        privacy = manifest.job.privacy
        noisy = privacy.protects and not privacy.hides_sites
        return (
            "Updates are not masked by secure aggregation: the coordinator reads each site’s "
            f"{'noisy ' * noisy}update."
        )

    def longest_update(self, job: Job, *, update_size: int) -> int:
        if job.compression.kind == "top-k":
            return longest_top(update_size, share=job.compression.share)
        return 4 * vector_size(job, update_size)

    def messages(
        self,
        job: Job,
        sites: Sequence[str],  # noqa: ARG002 - sites have nothing to do with one another
        *,
        site: str,  # noqa: ARG002
        update_size: int,
    ) -> RoundMessages:
        compression = job.compression
        length = 4 * vector_size(job, update_size)
        if compression.kind == "top-k":
            length = min(length, round(_GAP_BYTES * compression.share * update_size))
        return RoundMessages(train=pb.Train(), trained=pb.Trained(update=bytes(length)))
