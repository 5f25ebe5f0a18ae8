"""Reservation: what a release will cost is in the ledger before the release is computed."""

from __future__ import annotations

from client.session import Session
from privacy.accounting.plan import Plan
from privacy.ledger.entries import Purpose
from privacy.ledger.ledger import Charge
from privacy.ledger.receipt import Receipt
from protocol.processes.time_spent import Part, timed


@timed(Part.LEDGER)
def reserve(
    session: Session,
    plan: Plan,
    number: int,
    *,
    site: str,
    keyed: bool,
    purpose: Purpose = "training",
    steps: int | None = None,
) -> Receipt:
    """Write a round's steps, or the metrics, into the ledger; the receipt says what was written.

    ``number`` is the round's, and ``keyed`` whether its noise repeats. ``steps`` are a round's if they are
    not given. Raises BudgetError, LedgerError or
    OverdrawnError where there is no room: then nothing may be computed.
    """
    job, training = session.manifest.job, purpose == "training"
    if steps is None:
        steps = job.steps_in(number) if training else 1
    if not plan.protects:
        taken, epsilon = session.manifest.steps_until(site, number), None
        head = session.ledger.record_unprotected(
            dataset=session.dataset,
            run=session.manifest.run,
            manifest=session.digest,
            round_number=number,
        )
    else:
        charge = Charge(
            dataset=session.dataset,
            run=session.manifest.run,
            manifest=session.digest,
            plan=plan,
            round=number,
            steps=steps,
            purpose=purpose,
            keyed=keyed,
        )
        reserved = session.ledger.reserve(charge)
        taken, head = reserved.taken, reserved.head
        # A count's one release has an ε at δ = 0, and so it is charged.
        epsilon = plan.epsilon_after(taken) if training else plan.pure_epsilon
    return Receipt(
        site=site,
        run=session.manifest.run,
        manifest=session.digest,
        round=number,
        plan=plan,
        steps=steps,
        taken=taken,
        epsilon=epsilon,
        budget=job.privacy.epsilon if training else job.metrics.epsilon,
        head=head,
        purpose=purpose,
    )
