"""What an attack found as one JSON document: the twin of its page, and what a digest is of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn

from pydantic import TypeAdapter

from privacy.errors import UserError
from simulation.attack.empirical_audit import EmpiricalAudit
from simulation.attack.finding import Claim, Finding
from simulation.attack.inversion import Inversion
from simulation.attack.membership_attack import MembershipAttack
from simulation.attack.site_attack import SiteAudit

# What is found by each command of `confide audit`.
COMMANDS: Mapping[str, type[Finding]] = {
    "empirical": EmpiricalAudit,
    "sites": SiteAudit,
    "attack": MembershipAttack,
    "inversion": Inversion,
}


def evidence(finding: Finding) -> bytes:
    """All of a finding as JSON, UTF-8: what was found, each curve, and how to make it again.

    The same finding gives the same bytes.
    """
    return json.dumps(evidence_table(finding), indent=1, allow_nan=False).encode() + b"\n"


def evidence_digest(finding: Finding) -> str:
    """SHA-256 of ``evidence``, as hex."""
    return hashlib.sha256(evidence(finding)).hexdigest()


def evidence_table(finding: Finding) -> dict[str, Any]:
    """The same as JSON has it. A curve is a list of [false positive rate, true positive rate].

    Where nothing is claimed, ``upper`` and ``margin`` are null.
    """
    table = asdict(finding)
    last: dict[str, Any] = {
        name: table.pop(name) for name in ("provenance", "upper", "confidence") if name in table
    }
    if isinstance(finding, Claim):
        last |= {"lower": finding.lower, "margin": finding.margin, "verdict": finding.verdict}
        last |= {name: None for name in ("upper", "margin") if math.isinf(last[name])}
    command = next(name for name, known in COMMANDS.items() if type(finding) is known)
    return {"audit": command, **table, **last}


def read_evidence(content: bytes, *, name: str) -> Finding:
    """What ``evidence`` or a command's ``--json`` wrote, from a file of this ``name``.

    What follows from the rest, such as the verdict, is found anew. Raises UserError for anything else.
    """
    try:
        table = json.loads(content, parse_constant=_no_number)
        if "upper" in table and table["upper"] is None:
            table["upper"] = math.inf
        finding: Finding = TypeAdapter(COMMANDS[table["audit"]]).validate_python(table)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{name}: expected what confide audit empirical, sites, attack or inversion wrote with "
            f"--report or --json, got {type(error).__name__}"
        ) from error
    return finding


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {constant}")
