"""What a site says when it refuses, to the coordinator and in its own ledger: short, plain text."""

from __future__ import annotations

import logging
from collections.abc import Callable

from google.protobuf.message import DecodeError

from client.training.cancellation import StoppedError
from privacy.errors import (
    BudgetError,
    ConfideError,
    DataError,
    LedgerError,
    LostError,
    OverdrawnError,
    PolicyError,
    PolicyFileError,
    ProtocolError,
    RunError,
)
from privacy.ledger.entries import Refused
from privacy.ledger.ledger import Ledger
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.plain_text import told

log = logging.getLogger("confide.site")


def answer_or_refuse(site: str, work: Callable[[], pb.Reply], *, candid: bool = False) -> bytes:
    """The serialized reply that ``work`` makes, or the refusal that its error becomes.

    A ``candid`` site tells whoever asks what is its custodian's to know: in a simulation they are one
    person. Raises StoppedError alone: a site that stops neither answers nor refuses.
    """
    try:
        reply = work()
    except StoppedError:
        raise
    except DecodeError as error:
        reply = _refused(site, ProtocolError(f"the request cannot be parsed: {error}"))
    except (LedgerError, OverdrawnError, PolicyFileError, DataError) as error:
        # What it says is the custodian's to know: what others spent, how much is left, what a file holds.
        log.warning("%s refused: %s", site, error)
        reply = _refused(site, error if candid else tell(error))
    except ConfideError as error:
        reply = _refused(site, error)
    except OSError as error:
        log.exception("%s failed", site)
        why = f"{error.strerror}: {error.filename or 'one of them'}" if candid else "its own log says why"
        reply = _refused(site, RunError(f"the site cannot write its records; {why}"))
    except Exception:
        # Its text may quote an example, and whoever asked must not read that.
        log.exception("%s failed", site)
        reply = _refused(site, RunError("the site failed; its own log says how"))
    return bytes(reply.SerializeToString())


def _refused(site: str, error: ConfideError) -> pb.Reply:
    spent = isinstance(error, BudgetError)
    refused = pb.Refused(
        reason=told(str(error)),
        exit_code=error.exit_code,
        budget_spent=spent,
        lost=isinstance(error, LostError),
    )
    return pb.Reply(site=site, refused=refused)


def tell(error: ConfideError) -> ConfideError:
    """What a coordinator is told of an error that is the custodian's to know."""
    if isinstance(error, OverdrawnError):
        return BudgetError("the data's budget at this site has no room for the run")
    if isinstance(error, PolicyFileError):
        return RunError("the site cannot read its site.toml or peers.toml; its own log says why")
    if isinstance(error, DataError):
        return RunError("the site cannot use its data for this job; its own log says why")
    return RunError("the site cannot use its ledger; its own log says why")


def log_refusal(ledger: Ledger, manifest: Manifest, error: ConfideError) -> None:
    """Write a refusal into the ledger, but for manifests that anyone could have sent."""
    rule = error.rule if isinstance(error, PolicyError) else type(error).__name__
    if rule != "rules.coordinator":
        digest, reason = manifest.digest.hex(), told(str(error))
        ledger.record(Refused(run=manifest.run, manifest=digest, rule=rule, reason=reason))
