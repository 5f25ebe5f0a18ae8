"""The job's ``[aggregation]``: how updates are summed. Each kind has keys of its own.

What follows from the kind is no key: ``hidden`` is whether the coordinator reads sums alone, and
``threshold_protects`` whether it takes more than one site beside the coordinator to read an update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from protocol.job.section import COHORT_MAX, Section

if TYPE_CHECKING:
    from protocol.job.job import Job

# How many sites' answers uncover or confirm a sum, and without which nothing is; unset: ⌊2n/3⌋ + 1.
Threshold = Annotated[int, Field(ge=2, le=COHORT_MAX)]


class MasksSection(Section):
    """Sums under masks: the coordinator reads sums alone, and sites may drop out at any moment."""

    kind: Literal["masks"] = "masks"
    threshold: Threshold | None = None
    # How many sites may work together with the coordinator without reading another's update.
    colluding: Annotated[int, Field(ge=0, le=COHORT_MAX)] = 0
    # Whether sites sign who has answered before they uncover a sum; if not, the coordinator must be honest.
    confirm: bool = True
    modulus_bits: Literal[16, 20, 32] = 32
    hidden: ClassVar[bool] = True
    threshold_protects: ClassVar[bool] = True

    def check(self, job: Job) -> None:
        """Raises ValueError for a job that cannot be summed under masks."""
        refuse_chosen_by_site(job)
        if job.privacy.in_shares and not self.confirm:
            raise ValueError(
                'aggregation.confirm: expected true with privacy.unit="site": a site that is read alone '
                "has no more noise than its own share"
            )
        if job.privacy.hides_sites and not job.privacy.in_shares and self.modulus_bits != 32:
            raise ValueError(
                'aggregation.modulus_bits: expected 32 with privacy.noise="central": a sum that wraps '
                "around before its noise is added hides nobody"
            )


class HomomorphicSection(Section):
    """Sums of ciphertexts, under a key that all sites share and the coordinator does not have."""

    kind: Literal["homomorphic"] = "homomorphic"
    threshold: Threshold | None = None
    # Any site that works with the coordinator has the key; and sites confirm every list.
    colluding: ClassVar[int] = 0
    confirm: ClassVar[bool] = True
    hidden: ClassVar[bool] = True
    threshold_protects: ClassVar[bool] = False

    def check(self, job: Job) -> None:
        """Raises ValueError for a job whose updates cannot be summed as ciphertexts."""
        wanted = 'with aggregation.kind="homomorphic"'
        if job.federation.cohort is not None:
            raise ValueError(
                f"federation.cohort: expected none {wanted}, whose sites share one key of the run; use "
                'aggregation.kind="masks"'
            )
        if job.privacy.hides_sites:
            raise ValueError(
                f'privacy.unit: expected "example" {wanted}: a single site opens the sum, which would have '
                'no noise yet; use aggregation.kind="masks"'
            )
        if job.compression.kind != "none":
            raise ValueError(
                f'compression.kind: expected "none" {wanted}, whose ciphertexts are of whole updates'
            )
        if job.metrics.epsilon > 0:
            raise ValueError(
                f"metrics.epsilon: expected 0 {wanted}, which sums updates alone; use "
                'aggregation.kind="masks"'
            )


class PlainSection(Section):
    """No secure aggregation: the coordinator reads each update and adds them up itself."""

    kind: Literal["none"] = "none"
    # There is no sum to uncover, and nobody to confirm one.
    threshold: ClassVar[None] = None
    colluding: ClassVar[int] = 0
    confirm: ClassVar[bool] = False
    hidden: ClassVar[bool] = False
    threshold_protects: ClassVar[bool] = False

    def check(self, job: Job) -> None:
        """Raises ValueError for a job that promises what only a sum that nobody reads can keep."""
        if job.privacy.in_shares:
            raise ValueError(
                'aggregation.kind: expected "masks" with privacy.unit="site": a site\'s own share of the '
                'noise hides nothing until it is in the sum; or privacy.noise="central" and a coordinator '
                "that is trusted"
            )
        if job.privacy.hides_sites:
            refuse_chosen_by_site(job)


def refuse_chosen_by_site(job: Job) -> None:
    """Raises ValueError where sites pick which numbers they send."""
    if job.compression.kind == "top-k":
        raise ValueError(
            'compression.kind: "top-k" picks coordinates site by site, which cannot be summed unread: '
            'expected "random", or aggregation.kind="none" and privacy.unit="example"'
        )


def _named(table: Any) -> Any:
    """Masks are what a section means that names no kind."""
    return {"kind": "masks"} | table if isinstance(table, dict) else table


AggregationSection = Annotated[
    MasksSection | HomomorphicSection | PlainSection,
    Field(discriminator="kind"),
    BeforeValidator(_named),
]
