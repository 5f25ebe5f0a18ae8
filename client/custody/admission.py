"""Admission: what a site's policy and its custodian say of a manifest, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable

from client.custody.home import Home
from client.custody.policy import Policy
from privacy.errors import PolicyError
from privacy.ledger.ledger import Ledger
from protocol.job.manifest import Manifest
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
) -> int:
    """Ask the policy, as it was read for this request, and the custodian where it says so.

    Returns the number under which ``register`` enters the data into the ledger. The policy is first: whom
    the coordinator's key did not sign for learns nothing of the data. The ledger is kept to what the policy
    says, and the data are registered before the custodian is asked, who may want to know what the run would
    cost them. Raises PolicyError naming the rule that says no, and what ``register`` raises.
    """
    policy.check(manifest, signature)
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
