"""Bytes that a job's messages take, before any is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from google.protobuf.message import Message

from privacy.accounting.plan import Plan
from privacy.ledger.receipt import Receipt, SignedReceipt
from privacy.secagg.ring import Ring
from privacy.secagg.sealing import KEY_BYTES, TAG_BYTES
from privacy.secagg.shamir import SHARE_BYTES
from protocol.job.job import Job
from protocol.job.layout import AdapterLayout
from protocol.messages import confide_pb2 as pb
from protocol.sums.ciphertext_messages import longest_content
from protocol.sums.update_encoding import vector_size

_HASH_BYTES, _SIGNATURE_BYTES = 32, 64
_SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
_HEAD_BYTES = pb.Request(head=bytes(_HASH_BYTES)).ByteSize()
_GAP_BYTES = 5  # a number of the largest, with its place
_RUN_SUFFIX = "20260101-000000-0000"  # what a run's name has beside the job's


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that cross in training: ``up`` and ``down`` for the largest site in a round, and in all."""

    up: int
    down: int
    total: int


def traffic(job: Job, layout: AdapterLayout, plans: Mapping[str, Plan]) -> Traffic:
    """Bytes of the messages of a round's training, with every site in it, by the ``plans`` of the sites.

    A receipt's numbers take a few characters more or fewer. Under masks every site is taken to mask with
    every other. A homomorphic sum is opened by one site, which is sent the ciphertexts of all: that is in
    the total alone. Joining, once a run, comes on top: the manifest and the first dealings, a few
    kilobytes a site.
    """
    sites, number = tuple(plans), job.training.rounds
    adapter = bytes(4 * layout.adapter_size)
    train = pb.Train(manifest_digest=bytes(_HASH_BYTES), round=number, adapter=adapter)
    down = 0
    if job.aggregation.kind == "masks":
        _add_sum(train, sites)
        down = _asked_of_masks(job, sites)
    down += _asked(train=train)
    ups = []
    for name, plan in plans.items():
        content = _receipt(job, name, plan).content
        receipt = asdict(SignedReceipt(content=content, signature=bytes(_SIGNATURE_BYTES)))
        trained = pb.Trained(round=number, update=bytes(_update_bytes(job, layout)), receipt=receipt)
        up = 0
        if job.aggregation.kind == "masks":
            trained.next.CopyFrom(_dealing(len(sites)))
            up = _told_of_masks(job, name, len(sites))
        ups.append(up + pb.Reply(site=name, trained=trained).ByteSize())
    opening = 0
    if job.aggregation.kind == "homomorphic":
        opening = len(sites) * longest_content(layout.update_size) + 4 * layout.update_size
    total = number * (sum(ups) + len(ups) * down + opening) - len(ups) * _HEAD_BYTES
    return Traffic(up=max(ups), down=down, total=total)


def _update_bytes(job: Job, layout: AdapterLayout) -> int:
    size = vector_size(job, layout.update_size)
    if job.aggregation.kind == "masks":
        return Ring(job.masks.modulus_bits).packed_size(size)
    if job.aggregation.kind == "homomorphic":
        return longest_content(size)
    if job.compression.kind == "top-k":
        return min(4 * size, round(_GAP_BYTES * job.compression.share * size))
    return 4 * size


def _add_sum(train: pb.Train, sites: tuple[str, ...]) -> None:
    for site in sites:
        train.cohort.dealt.add(
            site=site, key=bytes(KEY_BYTES), commitment=bytes(KEY_BYTES), sealed=bytes(_SEALED_BYTES)
        )
        train.next.members.add(
            site=site, identity=bytes(KEY_BYTES), key=bytes(KEY_BYTES), signature=bytes(_SIGNATURE_BYTES)
        )


def _dealing(sites: int) -> pb.Dealing:
    sealed = [bytes(_SEALED_BYTES)] * (sites - 1)
    return pb.Dealing(key=bytes(KEY_BYTES), commitment=bytes(KEY_BYTES), sealed=sealed)


def _asked(**request: Message) -> int:
    """Bytes of a request that names the last receipt's entry: all do but the first to train."""
    return pb.Request(**request).ByteSize() + _HEAD_BYTES


def _asked_of_masks(job: Job, sites: tuple[str, ...]) -> int:
    """Bytes of the requests that uncover a sum, to one site."""
    unmask = pb.Unmask(manifest_digest=bytes(_HASH_BYTES), number=1, survivors=sites)
    asked = 0
    if job.aggregation.confirm:
        confirm = pb.Confirm(manifest_digest=bytes(_HASH_BYTES), number=1, survivors=sites)
        asked = _asked(confirm=confirm)
        for site in sites:
            unmask.signatures.add(site=site, signature=bytes(_SIGNATURE_BYTES))
    return asked + _asked(unmask=unmask)


def _told_of_masks(job: Job, site: str, sites: int) -> int:
    """Bytes of one site's answers to them."""
    shares = [pb.Share(place=place, share=bytes(SHARE_BYTES)) for place in range(sites)]
    told = pb.Reply(site=site, unmasked=pb.Unmasked(shares=shares)).ByteSize()
    if job.aggregation.confirm:
        told += pb.Reply(site=site, confirmed=pb.Confirmed(signature=bytes(_SIGNATURE_BYTES))).ByteSize()
    return told


def _receipt(job: Job, site: str, plan: Plan) -> Receipt:
    """A receipt as long as the last round's."""
    digest = "0" * 2 * _HASH_BYTES
    return Receipt(
        site=site,
        run=f"{job.name}-{_RUN_SUFFIX}",
        manifest=digest,
        round=job.training.rounds,
        plan=plan,
        steps=job.steps_a_round,
        taken=plan.steps,
        epsilon=None if plan.mechanism.name == "none" else plan.epsilon,
        budget=job.privacy.epsilon,
        head=digest,
    )
