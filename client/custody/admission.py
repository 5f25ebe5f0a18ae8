"""Admission: what a site's policy and its custodian say of a manifest, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable

from client.custody.home import Home
from client.custody.policy import Policy
from privacy.errors import PolicyError, ProtocolError
from privacy.ledger.ledger import Ledger
from privacy.ledger.receipt import SignedReceipt
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import Header
from protocol.processes.time_spent import Part, timed


@timed(Part.LEDGER)
def admit(
    manifest: Manifest,
    signature: bytes,
    *,
    policy: Policy,
    home: Home,
    ledger: Ledger,
    register: Callable[[], int],
    shown: tuple[pb.Receipt, bytes] | None,
) -> int:
    """Ask the policy, as it was read for this request, and the custodian where it says so.

    Returns the number under which ``register`` enters the data into the ledger. The policy is first: whom
    the coordinator's key did not sign for learns nothing of the data. The ledger is kept to what the policy
    says, and the data are registered before the custodian is asked, who may want to know what the run would
    cost them. ``shown`` is, of who joins, a receipt that the coordinator shows and this site's public key.
    Raises PolicyError naming the rule that says no, FrozenError, LedgerError for a ledger that is older
    than the receipt, and what ``register`` raises.
    """
    policy.check(manifest, signature)
    ledger.check_open()
    if shown is not None:
        _check_past(ledger, *shown)
    budget = policy.budget
    ledger.keep_to(epsilon=budget.epsilon, delta=budget.delta, order=budget.order)
    dataset = register()
    if policy.rules.approval == "automatic" or ledger.approved(manifest.digest.hex()):
        return dataset
    home.keep_waiting(manifest, signature)
    raise PolicyError(
        f"run {manifest.run} waits for the custodian, who can say: "
        f"confide site approve {manifest.run} --home HOME",
        rule="rules.approval",
    )


def check_header(header: Header, request: pb.Request, manifest: Manifest) -> None:
    """What the envelope says of a request is what it says itself. Raises ProtocolError."""
    if header.run != manifest.run:
        raise ProtocolError(f"expected a request of run {header.run}, got one of run {manifest.run}")
    if request.HasField("train") and header.round != request.train.round:
        raise ProtocolError(f"expected a request of round {header.round}, got one of {request.train.round}")


def _check_past(ledger: Ledger, shown: pb.Receipt, public: bytes) -> None:
    """Raises LedgerError if the ledger lacks the entry that a receipt of this site's own names.

    What another key signed says nothing of this ledger, and neither do an empty receipt and one of a form
    that another version had.
    """
    try:
        receipt = SignedReceipt(content=shown.content, signature=shown.signature).read(public)
    except ProtocolError:
        return
    ledger.check_holds(receipt.head)
