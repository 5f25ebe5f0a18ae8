"""Bytes that a job's messages take, before any is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from privacy.accounting.plan import Plan
from privacy.ledger.receipt import Receipt, SignedReceipt
from protocol.job.job import Job
from protocol.job.layout import AdapterLayout
from protocol.job.ranks import layout_at, rank_at
from protocol.messages import confide_pb2 as pb
from protocol.messages.sized import SIGNATURE_BYTES
from protocol.sums.sum_kind import DIGEST_BYTES
from protocol.sums.sum_kinds import sum_kind

_HEAD_BYTES = pb.Request(head=bytes(DIGEST_BYTES)).ByteSize()
_RUN_SUFFIX = "20260101-000000-0000"  # what a run's name has beside the job's


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that cross in training: ``up`` and ``down`` for the largest site in a round, and in all."""

    up: int
    down: int
    total: int


def traffic(job: Job, layout: AdapterLayout, plans: Mapping[str, Plan], *, cohort: int) -> Traffic:
    """Bytes of the messages of a round's training, with a ``cohort`` in it, by the sites' ``plans``.

    Ranks of the sites' own are by name in the ``job``, as in a manifest.
    A receipt's numbers take a few characters more or fewer. Under masks every site is taken to mask with
    every other. A homomorphic sum is opened by one site, which is sent the ciphertexts of all: that is in
    the total alone. Joining, once a run, comes on top: the manifest and the first dealings, a few
    kilobytes a site.
    """
    sites, number = tuple(plans)[-cohort:], job.training.rounds
    kind, ranks = sum_kind(job), job.adapter.ranks
    ups, opening, down = [], 0, 0
    # Sites of other ranks send other lengths, and each is drawn as often as the next.
    for name in sites if ranks is None else plans:
        own = layout if ranks is None else layout_at(layout, rank_at(job, name))
        made_up = kind.messages(job, sites, site=name, update_size=own.update_size)
        train = pb.Train(
            manifest_digest=bytes(DIGEST_BYTES), round=number, adapter=bytes(4 * layout.adapter_size)
        )
        if job.strategy.corrects:
            train.beside = bytes(4 * layout.update_size)
        train.MergeFrom(made_up.train)
        content = _receipt(job, name, plans[name]).content
        receipt = asdict(SignedReceipt(content=content, signature=bytes(SIGNATURE_BYTES)))
        trained = pb.Trained(round=number, receipt=receipt)
        trained.MergeFrom(made_up.trained)
        # Every request names the last receipt's entry, but the first to train.
        down = sum(one.ByteSize() + _HEAD_BYTES for one in (pb.Request(train=train), *made_up.requests))
        replies = (pb.Reply(site=name, trained=trained), *made_up.replies)
        ups.append(sum(one.ByteSize() for one in replies))
        opening = made_up.opening
    up = sum(ups) * len(sites) // len(ups)
    total = number * (up + len(sites) * down + opening) - min(len(plans), number * cohort) * _HEAD_BYTES
    return Traffic(up=max(ups), down=down, total=total)


def _receipt(job: Job, site: str, plan: Plan) -> Receipt:
    """A receipt as long as the last round's."""
    digest = "0" * 2 * DIGEST_BYTES
    return Receipt(
        site=site,
        run=f"{job.name}-{_RUN_SUFFIX}",
        manifest=digest,
        round=job.training.rounds,
        plan=plan,
        steps=job.steps_in(job.training.rounds),
        taken=plan.steps,
        epsilon=plan.epsilon if plan.protects else None,
        budget=job.privacy.epsilon,
        head=digest,
    )
