"""What a site says when it refuses, to the coordinator and in its own ledger."""

from __future__ import annotations

from privacy.entries import Refused
from privacy.errors import BudgetError, ConfideError, OverdrawnError, PolicyError, RunError
from privacy.ledger import Ledger
from protocol.manifest import Manifest


def tell(error: ConfideError) -> ConfideError:
    """What a coordinator is told of an error that is the custodian's to know."""
    if isinstance(error, OverdrawnError):
        return BudgetError("the data's budget at this site has no room for the run")
    return RunError("the site cannot use its ledger; its own log says why")


def log_refusal(ledger: Ledger, manifest: Manifest, error: ConfideError) -> None:
    """Write a refusal into the ledger, but for manifests that anyone could have sent."""
    rule = error.rule if isinstance(error, PolicyError) else type(error).__name__
    if rule != "rules.coordinator":
        refused = Refused(run=manifest.run, manifest=manifest.digest.hex(), rule=rule, reason=str(error))
        ledger.record(refused)
