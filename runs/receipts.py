"""The receipts of a run: each is of what the manifest asks for, and goes on from its site's last one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from privacy.accounting.phased_plan import phases_of
from privacy.accounting.plan import Plan
from privacy.accounting.sampled_plan import make_count_plan
from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.errors import ProtocolError
from privacy.ledger.entries import Purpose
from privacy.ledger.receipt import Receipt, SignedReceipt
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.job.phases import uneven
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Request
from runs.asked_folder import AskedFolder
from runs.earlier_receipts import earlier_receipts
from runs.run_folder import RoundRecord


class Receipts:
    """What each site signed last in a run, its finished rounds' receipts in its folder to begin with.

    A receipt that a site does not go on from shows that its home was set back, or that it has two. What is
    known from earlier runs is shown to each site that joins.
    """

    def __init__(self, folder: AskedFolder, manifest: Manifest, records: Sequence[RoundRecord]) -> None:
        self._folder = folder
        self._manifest = manifest
        self._last: dict[str, Receipt] = {}
        self._earlier = earlier_receipts(folder)
        keys = folder.public_keys
        for record in reversed(records):
            missing = record.present - self._last.keys()
            if missing:
                kept = folder.receipts(record.round)
                self._last |= {name: kept[name].read(keys[name]) for name in missing}

    def take(self, name: str, sent: pb.Receipt, number: int, purpose: Purpose) -> None:
        """Take what a site signed for a round's training, for the metrics after it, or for statistics.

        Raises ProtocolError where it is about something else, or does not go on from the last one.
        """
        receipt = signed(sent).read(self._folder.public_keys[name])
        what = (receipt.site, receipt.manifest, receipt.round, receipt.purpose)
        if what != (name, self._manifest.digest.hex(), number, purpose):
            raise ProtocolError(
                f"{name} sent a receipt for something else than the {purpose} of round {number} of this run"
            )
        try:
            self._check(name, receipt)
        except ProtocolError as error:
            raise ProtocolError(f"{name} sent a wrong receipt: {error}") from error
        self._last[name] = receipt

    def _check(self, name: str, receipt: Receipt) -> None:
        before = self._last.get(name)
        if receipt.purpose == "metrics":
            check_metrics_receipt(receipt, self._manifest)
        elif receipt.purpose == "statistics":
            check_statistics_receipt(receipt, self._manifest)
        else:
            check_receipt(receipt, self._manifest)
        try:
            check_goes_on(receipt, before)
        except ProtocolError as error:
            raise ProtocolError(
                f"{error}; an older copy of the site's home was put back, or it answers from two homes"
            ) from error

    def epsilon(self, name: str) -> float | None:
        """What a site has spent by its last receipt; None without noise."""
        return self._last[name].epsilon

    def remind(self, requests: Mapping[str, Request]) -> Mapping[str, Request]:
        """The requests, each with the head of its site's last receipt: a ledger without it was set back.

        Who joins is shown a receipt of an earlier run instead, and none of this one: a coordinator that
        comes back asks in the same words.
        """
        return _Reminding(requests, self._last, self._earlier)


class _Reminding(Mapping[str, Request]):
    """Makes a request when it is looked up: an adapter in each at once would be much."""

    def __init__(
        self,
        requests: Mapping[str, Request],
        last: Mapping[str, Receipt],
        earlier: Mapping[str, SignedReceipt],
    ) -> None:
        self._requests, self._last, self._earlier = requests, last, earlier

    def __getitem__(self, name: str) -> Request:
        request, last = self._requests[name], self._last.get(name)
        if request.HasField("join"):
            return self._showing(request, self._earlier.get(name))
        if last is None:
            return request
        reminding = Request(head=bytes.fromhex(last.head))
        reminding.MergeFrom(request)
        return reminding

    @staticmethod
    def _showing(request: Request, kept: SignedReceipt | None) -> Request:
        if kept is None:
            return request
        showing = Request()
        showing.CopyFrom(request)
        showing.join.last.CopyFrom(pb.Receipt(content=kept.content, signature=kept.signature))
        return showing

    def __iter__(self) -> Iterator[str]:
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)


def signed(receipt: pb.Receipt) -> SignedReceipt:
    """A receipt as it is kept."""
    return SignedReceipt(content=receipt.content, signature=receipt.signature)


def check_receipt(receipt: Receipt, manifest: Manifest) -> None:
    """Raises ProtocolError if a receipt of a round, or of a site's own steps, is not of what was asked for.

    How much ε its steps cost is taken as it is told: an audit computes it anew.
    """
    job, plan = manifest.job, receipt.plan
    own = receipt.round > job.training.rounds  # the steps that a site takes for itself after the last one
    steps = job.training.personal_steps if own else job.steps_in(receipt.round)
    if not manifest.draws(receipt.site, receipt.round):
        raise ProtocolError(f"{receipt.site} was not drawn for round {receipt.round}")
    _check_values(
        ("mechanism", plan.mechanism.name, job.privacy.mechanism),
        ("clipping norm", plan.clipping_norm, job.privacy.bound),
        ("delta", plan.delta, job.privacy.delta),
        ("unit", plan.unit, job.privacy.unit),
        ("least number of shares of noise", _shares(plan), _planned_shares(manifest)),
        ("number of planned steps", plan.steps, job.planned_steps(manifest.planned_rounds(receipt.site))),
        ("number of steps", receipt.steps, steps),
        ("steps of its phases", [one.steps for one in phases_of(plan)], _phase_steps(job)),
        ("budget", receipt.budget, job.privacy.epsilon),
    )
    _check_head(receipt)
    if not plan.protects:
        if receipt.epsilon is not None:
            raise ProtocolError(f"there was no noise, and it claims epsilon={receipt.epsilon:g}")
    elif receipt.epsilon is None or not receipt.epsilon >= 0.0:
        raise ProtocolError(f"there was noise, and it claims epsilon={receipt.epsilon}")


def check_metrics_receipt(receipt: Receipt, manifest: Manifest) -> None:
    """Raises ProtocolError if the metrics' receipt is not of what the manifest asks for."""
    job = manifest.job
    privacy = job.privacy
    plan = make_count_plan(epsilon=job.metrics.epsilon, delta=privacy.delta, unit=privacy.sampled_unit)
    _check_values(
        ("plan", receipt.plan, plan),
        ("number of steps", (receipt.steps, receipt.taken), (1, 1)),
        ("budget", receipt.budget, job.metrics.epsilon),
        ("epsilon", receipt.epsilon, plan.pure_epsilon),
    )
    _check_head(receipt)


def check_statistics_receipt(receipt: Receipt, manifest: Manifest) -> None:
    """Raises ProtocolError if the receipt for a site's counts is not of what the manifest asks for.

    How wide its noise is and what that costs are taken as they are told, within the budget: the multiplier
    is sought by floats, whose last bits may differ from machine to machine.
    """
    job, asked, plan = manifest.job, manifest.job.statistics, receipt.plan
    if asked is None:
        raise ProtocolError("the run asks for no statistics: it has no [statistics]")
    _check_values(
        ("mechanism", plan.mechanism.name, "gaussian"),
        ("clipping norm", plan.clipping_norm, math.sqrt(asked.histograms)),
        ("delta", plan.delta, job.privacy.delta),
        ("unit", plan.unit, "example"),
        ("number of planned steps", plan.steps, 1),
        ("number of steps", (receipt.steps, receipt.taken), (1, 1)),
        ("budget", receipt.budget, asked.epsilon),
    )
    _check_head(receipt)
    if receipt.epsilon is None or not 0.0 <= receipt.epsilon <= asked.epsilon:
        raise ProtocolError(
            f"expected epsilon={asked.epsilon:g} at most, and it claims epsilon={receipt.epsilon}"
        )


def check_goes_on(receipt: Receipt, before: Receipt | None) -> None:
    """Raises ProtocolError if a receipt does not go on from ``before``, the site's last one of training.

    Rounds that were interrupted count, so it may have gone further.
    """
    if before is not None and receipt.head == before.head:
        raise ProtocolError("its ledger stands where it stood before: nothing was charged")
    if receipt.purpose != "training":
        return
    if before is not None:
        _check_values(("plan", receipt.plan, before.plan))
    if receipt.taken < (before.taken if before else 0) + receipt.steps:
        raise ProtocolError(miscounted(receipt, before))


def miscounted(receipt: Receipt, before: Receipt | None) -> str:
    """What is said of a count of steps that cannot be."""
    taken, planned = before.taken if before else 0, receipt.plan.steps
    return f"after {taken} of {planned} steps, and {receipt.steps} more, it counts {receipt.taken}"


def _check_head(receipt: Receipt) -> None:
    if not re.fullmatch("[0-9a-f]{64}", receipt.head):
        raise ProtocolError("its head is no SHA-256")


def _check_values(*values: tuple[str, object, object]) -> None:
    for what, got, wanted in values:
        if got != wanted:
            raise ProtocolError(f"its {what} is wrong: expected {wanted}, got {got}")


def _shares(plan: Plan) -> tuple[int, int] | None:
    """How many sites' noise a plan counts on, and how many of them may know their own."""
    if not isinstance(plan, SharedSitePlan):
        return None
    return plan.shared.min_survivors, plan.shared.colluding


def _phase_steps(job: Job) -> list[int]:
    """The steps of phases whose noise or rates differ; none where all steps have one plan."""
    planned = uneven(job) and job.privacy.protects
    return [phase.training.total_steps for phase in job.phases] if planned else []


def _planned_shares(manifest: Manifest) -> tuple[int, int] | None:
    job = manifest.job
    return (manifest.min_survivors, job.aggregation.colluding) if job.privacy.draws_shares else None
