"""Every error that Confide raises on purpose.

::

    ConfideError                something went wrong that a person can act on
     ├─ UserError               the person's input is at fault (exit code 2)
     │   ├─ JobError            a key of the job file
 │   │   └─ UnknownNameError  a name that nothing listed or installed has
     │   ├─ DataError           the examples
     │   ├─ ModelError          the base model or what the adapter asks of it
     │   ├─ PlanError           a privacy plan that cannot exist
     │   ├─ PolicyFileError     a key of a site's site.toml
     │   └─ KeyFileError        a key file is missing or holds something else
     ├─ PrivacyUnitError        training would not protect the unit it promises to protect
     ├─ BudgetError             the step would spend more than was agreed
     │   └─ OverdrawnError      the data's budget has no room; what it says is for the custodian alone
     ├─ FrozenError             an audit has frozen the ledger, and nobody has cleared that
     ├─ LedgerError             a ledger cannot be trusted or used
     ├─ AuditError              a run's evidence contradicts itself
     ├─ PolicyError             the site's own policy says no
     ├─ ProtocolError           the two ends do not agree on what they exchange
     │   ├─ SignatureError      a signature does not fit
     │   └─ AggregationError    a sum that a site or the coordinator takes no part in
     │       └─ LostError       a site has no secrets for it any more, and can join again
     ├─ SiteError               a site refused or failed; it names the site
     └─ RunError                a run could not go on (exit code 1)

A message says what was expected, what came and what to do, with values as ``name=value``.
"""


class ConfideError(Exception):
    """The root: catch this to catch everything that Confide raises on purpose."""

    exit_code = 1


class UserError(ConfideError):
    """The person's input is at fault; nothing was started."""

    exit_code = 2


class JobError(UserError):
    """A key of the job file is unknown, has the wrong type or contradicts another."""


class UnknownNameError(JobError, ValueError):
    """A name in a job that nothing has which is listed or installed; a section's check may raise it."""


class DataError(UserError):
    """The examples are missing, empty or not what the job says."""


class ModelError(UserError):
    """The base model cannot be loaded, or cannot carry the adapter that the job asks for."""


class PlanError(UserError):
    """No noise multiplier meets the plan, or the plan contradicts itself."""


class PolicyFileError(UserError):
    """A key of a site's site.toml or peers.toml is unknown, of the wrong type or contradicts another."""


class KeyFileError(UserError):
    """A key file is missing or holds something else."""


class PrivacyUnitError(ConfideError):
    """Training would not protect the unit it promises to protect; it names the layer."""


class BudgetError(ConfideError):
    """The step would spend more than was agreed."""


class OverdrawnError(BudgetError):
    """The data's budget has no room; its text says what is left, which is for the custodian alone."""


class FrozenError(ConfideError):
    """An audit refuted what a ledger claims: nothing is spent until its custodian has cleared that."""


class LedgerError(ConfideError):
    """A ledger cannot be trusted or used. ``entry`` is the first wrong one, from 1, if it is one."""

    def __init__(self, message: str, *, entry: int | None = None) -> None:
        super().__init__(message if entry is None else f"entry {entry}: {message}")
        self.entry = entry


class AuditError(ConfideError):
    """A run's evidence contradicts itself: a receipt, its manifest, or a site's ledger."""


class PolicyError(ConfideError):
    """The site's own policy says no; ``rule`` is the key of site.toml that does."""

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(f"the site's policy refuses, by {rule}: {message}")
        self.rule = rule


class ProtocolError(ConfideError):
    """The two ends do not agree on what they exchange."""


class SignatureError(ProtocolError):
    """A signature does not fit what it stands under."""


class AggregationError(ProtocolError):
    """A sum of unread updates that one end takes no part in; ``rule`` names what it would break."""

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


class LostError(AggregationError):
    """A site has no secrets for this sum, or not any more: it can join again and deal new ones."""

    def __init__(self, message: str) -> None:
        super().__init__(message, rule="secrets")


class SiteError(ConfideError):
    """A site refused or failed.

    ``exit_code`` is the one of the error that the site met, so that a user's mistake stays one.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunError(ConfideError):
    """A run could not go on."""
