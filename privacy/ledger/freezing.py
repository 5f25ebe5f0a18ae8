"""A frozen ledger: an audit refuted what it claims, and nothing is spent until a person clears that."""

from __future__ import annotations

from privacy.errors import FrozenError, LedgerError
from privacy.ledger.entries import Frozen, Unfrozen


class Freeze:
    """Whether a ledger is frozen, as its entries tell one after another: ``by`` which event, None if not.

    ``entry`` is that event's number, the newest that is not cleared. Whoever clears one names its entry, so
    that a freeze that nobody has looked at yet stays.
    """

    def __init__(self) -> None:
        self._open: dict[int, Frozen] = {}

    @property
    def entry(self) -> int:
        return max(self._open, default=0)

    @property
    def by(self) -> Frozen | None:
        return self._open.get(self.entry)

    def take(self, number: int, event: Frozen | Unfrozen) -> None:
        """Take the next event, entry ``number``. Raises LedgerError for one that clears another freeze."""
        if isinstance(event, Frozen):
            self._open[number] = event
        elif self._open.pop(event.entry, None) is None:
            raise LedgerError(
                f"it clears entry {event.entry}, and the ledger is "
                + ("not frozen" if self.by is None else f"frozen by entry {self.entry}"),
                entry=number,
            )

    def check(self) -> None:
        """Raises FrozenError if the ledger is frozen. What it says, a coordinator may read."""
        if self._open:
            raise FrozenError(
                "the site's ledger is frozen: an audit refuted what its runs claim, and nothing is spent "
                "until the custodian has cleared that (confide site unfreeze)"
            )
