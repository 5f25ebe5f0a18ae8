"""Homomorphic sums: the coordinator passes ciphertexts on, and a site opens their sum."""

from __future__ import annotations

from collections.abc import Sequence

from privacy.accounting.plan import Plan
from privacy.errors import JobError, ProtocolError
from privacy.secagg.ckks.ciphertexts import Parameters, load_tenseal
from privacy.secagg.ckks.homomorphic import longest_content
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.sums.ciphertext_messages import check_sum_size
from protocol.sums.mask_messages import check_rules, check_threshold
from protocol.sums.sum_kind import RoundMessages
from protocol.sums.update_encoding import vector_size


class Homomorphic:
    """Each update is encrypted, under a key that all sites share."""

    def check(self, manifest: Manifest) -> None:
        """Raises UserError too, without TenSEAL."""
        check_threshold(manifest, how="in homomorphic sums")
        check_rules(manifest)
        load_tenseal()
        try:
            Parameters(sites=manifest.cohort)
        except ProtocolError as error:
            raise JobError(f'aggregation.kind="homomorphic": {error}; use "masks"') from error

    def check_size(self, manifest: Manifest, *, update_size: int, plan: Plan | None) -> None:  # noqa: ARG002
        check_sum_size(manifest, update_size=update_size)

    def refusal(self, manifest: Manifest, *, colluding: int) -> str | None:  # noqa: ARG002
        if not colluding:
            return None
        return (
            'one site that works with the coordinator reads every update: expected "masks", got '
            'aggregation.kind="homomorphic"'
        )

    def who_reads(self, manifest: Manifest) -> str:
        return (
            f"the coordinator reads sums of {manifest.min_survivors} sites or more; together with any one "
            "site it could read each update"
        )

    def notice(self, manifest: Manifest) -> str:  # noqa: ARG002 - it is the same of every one
        return (
            "Updates are encrypted: the coordinator passes on what it cannot read, and a site adds it up "
            "and decrypts the sum. The sites share one key, which no threshold protects: any one of them, "
            "working with the coordinator, could decrypt another’s update."
        )

    def longest_update(self, job: Job, *, update_size: int) -> int:
        return longest_content(vector_size(job, update_size))

    def messages(
        self,
        job: Job,
        sites: Sequence[str],
        *,
        site: str,  # noqa: ARG002 - a round has no other messages of each site
        update_size: int,
    ) -> RoundMessages:
        """One site opens the sum, and is sent the ciphertexts of all."""
        content = self.longest_update(job, update_size=update_size)
        return RoundMessages(
            train=pb.Train(),
            trained=pb.Trained(update=bytes(content)),
            opening=len(sites) * content + 4 * update_size,
        )
