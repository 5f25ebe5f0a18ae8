"""What an empirical audit found as one JSON document: the twin of its report, and what a digest is of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from protocol.job.job_file import job_toml
from simulation.attack.empirical_audit import EmpiricalAudit


def evidence(audit: EmpiricalAudit) -> bytes:
    """All of an audit as JSON, UTF-8: what was found, each attacker's curve, and how to make it again.

    The same audit gives the same bytes.
    """
    return json.dumps(evidence_table(audit), indent=1, allow_nan=False).encode() + b"\n"


def evidence_digest(audit: EmpiricalAudit) -> str:
    """SHA-256 of ``evidence``, as hex."""
    return hashlib.sha256(evidence(audit)).hexdigest()


def evidence_table(audit: EmpiricalAudit) -> dict[str, Any]:
    """The same as JSON has it. A curve is a list of [false positive rate, true positive rate]."""
    made = audit.provenance
    return {
        "kind": "empirical audit",
        "job": audit.job,
        "site": audit.site,
        "unit": made.job.privacy.unit,
        "mechanism": made.job.privacy.mechanism,
        "canaries": audit.canaries,
        "present": audit.present,
        "delta": audit.delta,
        "bounds": [asdict(bound) for bound in audit.bounds],
        "draws": audit.draws,
        "attackers": [asdict(attacker) for attacker in audit.attackers],
        "curves": {name: [list(point) for point in curve] for name, curve in audit.curves.items()},
        "provenance": {
            "asked": made.asked,
            "seed": made.seed,
            "began": made.began,
            "versions": dict(made.versions),
            "job_digest": made.job_digest,
            "data_digest": made.data_digest,
            "model_digest": made.model_digest,
            "layout_digest": made.layout_digest,
            "job_toml": job_toml(made.job),
        },
        "upper": audit.upper,
        "lower": audit.lower,
        "margin": audit.margin,
        "confidence": audit.confidence,
        "verdict": audit.verdict,
    }
