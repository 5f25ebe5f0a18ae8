"""Homomorphic sums as they travel: the sites' key, their ciphertexts, and how many bytes these may take."""

from __future__ import annotations

from privacy.errors import AggregationError, JobError
from privacy.secagg.ckks.homomorphic import longest_content
from privacy.secagg.ckks.homomorphic_sum import Contribution
from privacy.secagg.ckks.shared_key import KEY_MAX
from privacy.secagg.roster import Dealing, Dealt
from privacy.secagg.sealing import KEY_BYTES
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.sized import SIGNATURE_BYTES, sized

# An agent takes 2^30 bytes at a time; the rest is for names, signatures and the envelope.
OPEN_MAX = 2**30 - 2**20


def check_sum_size(manifest: Manifest, *, update_size: int) -> None:
    """Raises JobError where all sites' ciphertexts together are more than one site can be sent."""
    needed = manifest.cohort * longest_content(update_size)
    if needed > OPEN_MAX:
        raise JobError(
            f'aggregation.kind="homomorphic": to open a sum, one site gets the ciphertexts of all: '
            f"expected at most {OPEN_MAX} bytes, got {needed} for {manifest.cohort} sites and "
            f'{update_size} trained numbers; lower adapter.rank, train fewer layers, or use "masks"'
        )


def read_key_dealing(site: str, message: pb.Dealing) -> Dealing:
    """A site's dealing of the shared key. Raises AggregationError for parts of another size."""
    return Dealing(
        site=site,
        key=sized(message.key, KEY_BYTES, f"the salt of {site}"),
        commitment=sized(message.commitment, KEY_BYTES, f"the commitment of {site}"),
        sealed=tuple(_short(one, site) for one in message.sealed),
    )


def read_key_dealt(message: pb.Cohort) -> Dealt:
    """The one dealing that a homomorphic sum's cohort has. Raises AggregationError for anything else."""
    if len(message.dealt) != 1:
        raise AggregationError(
            f"expected one dealing of the sites' key, got {len(message.dealt)}", rule="cohort"
        )
    (one,) = message.dealt
    return Dealt(
        site=one.site,
        key=sized(one.key, KEY_BYTES, f"the salt of {one.site}"),
        commitment=sized(one.commitment, KEY_BYTES, f"the commitment of {one.site}"),
        sealed=_short(one.sealed, one.site),
    )


def read_digests(message: pb.Confirm) -> dict[str, bytes]:
    """The digests of ciphertexts by site. Raises AggregationError unless each site has one."""
    if len(message.digests) != len(message.survivors) or len(set(message.survivors)) != len(
        message.survivors
    ):
        raise AggregationError("expected one digest a site, and each site once", rule="survivors")
    return {
        site: sized(digest, KEY_BYTES, f"the digest of {site}'s ciphertexts")
        for site, digest in zip(message.survivors, message.digests, strict=True)
    }


def write_encrypted(contribution: Contribution) -> pb.Encrypted:
    """A contribution as it travels to whoever opens the sum."""
    return pb.Encrypted(
        site=contribution.site, update=contribution.content, signature=contribution.signature
    )


def read_contribution(message: pb.Encrypted, *, update_size: int) -> Contribution:
    """Raises AggregationError for ciphertexts that are longer than an update's."""
    return make_contribution(message.site, message.update, message.signature, update_size=update_size)


def make_contribution(site: str, content: bytes, signature: bytes, *, update_size: int) -> Contribution:
    """A contribution. Raises AggregationError for ciphertexts that are longer than an update's."""
    if len(content) > longest_content(update_size):
        raise AggregationError(
            f"expected ciphertexts of {longest_content(update_size)} bytes at most from {site}, got "
            f"{len(content)}",
            rule="size",
        )
    return Contribution(
        site=site, content=content, signature=sized(signature, SIGNATURE_BYTES, f"the signature of {site}")
    )


def _short(sealed: bytes, site: str) -> bytes:
    if len(sealed) > KEY_MAX:
        raise AggregationError(
            f"expected a sealed key of {KEY_MAX} bytes at most from {site}, got {len(sealed)}", rule="size"
        )
    return sealed
