"""A frozen ledger: an audit refuted what it claims, and nothing is spent until a person clears that."""

from __future__ import annotations

from privacy.errors import FrozenError, LedgerError
from privacy.ledger.entries import Frozen, Unfrozen


class Freeze:
    """Whether a ledger is frozen, as its entries tell one after another: ``by`` which event, None if not.

    ``entry`` is the number of the last one that froze it. Whoever clears it names that entry, so that a
    freeze that nobody has looked at yet stays.
    """

    def __init__(self) -> None:
        self.by: Frozen | None = None
        self.entry = 0

    def take(self, number: int, event: Frozen | Unfrozen) -> None:
        """Take the next event, entry ``number``. Raises LedgerError for one that clears another freeze."""
        if isinstance(event, Frozen):
            self.by, self.entry = event, number
        elif self.by is None or event.entry != self.entry:
            raise LedgerError(
                f"it clears entry {event.entry}, and the ledger is "
                + ("not frozen" if self.by is None else f"frozen by entry {self.entry}"),
                entry=number,
            )
        else:
            self.by = None

    def check(self) -> None:
        """Raises FrozenError if the ledger is frozen. What it says, a coordinator may read."""
        if self.by is not None:
            raise FrozenError(
                "the site's ledger is frozen: an audit refuted what its runs claim, and nothing is spent "
                "until the custodian has cleared that (confide site unfreeze)"
            )
