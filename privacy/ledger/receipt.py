"""A receipt: what a site says, under its signature, that a round or its metrics have cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from privacy.accounting.plan import Plan
from privacy.canonical import canonical_json
from privacy.errors import PlanError, ProtocolError
from privacy.identity import Identity, verify
from privacy.ledger.entries import Purpose, from_table, to_table

PURPOSE = "receipt"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What one round, or the metrics after the last one, cost at one site.

    ``steps`` of the plan were taken in this round and ``taken`` so far; ``epsilon`` is what these cost,
    of the ``budget`` that the run asked for with this ``purpose``, at the plan's δ; None stands for no
    privacy at all. It is about the plan's own unit: where that is a whole site, its loss as it was planned,
    while the ledger charges an example's. ``head`` is the hash of the ledger's last entry when the steps
    were reserved: it commits the site to all that its ledger said. Nothing is told of other runs or of what
    the site would still allow.
    """

    site: str
    run: str
    manifest: str
    round: int
    plan: Plan
    steps: int
    taken: int
    epsilon: float | None
    budget: float
    head: str
    purpose: Purpose = "training"

    @cached_property
    def content(self) -> bytes:
        """Canonical JSON: what is signed."""
        return canonical_json(to_table(self))


@dataclass(frozen=True, kw_only=True)
class SignedReceipt:
    """A receipt as it travels and as it is kept."""

    content: bytes
    signature: bytes

    def read(self, public_key: bytes) -> Receipt:
        """The receipt, if the key's holder signed it. Raises SignatureError or ProtocolError."""
        verify(public_key, PURPOSE, self.content, self.signature)
        try:
            receipt: Receipt = from_table(Receipt, json.loads(self.content))
            canonical = receipt.content
        except (ValueError, TypeError, AttributeError, RecursionError, PlanError) as error:
            raise ProtocolError(f"not a receipt: {error!r}") from error
        if canonical != self.content:
            raise ProtocolError("the receipt is not in its canonical form")
        return receipt


def sign_receipt(identity: Identity, receipt: Receipt) -> SignedReceipt:
    """Put the site's signature under a receipt."""
    return SignedReceipt(content=receipt.content, signature=identity.sign(PURPOSE, receipt.content))
