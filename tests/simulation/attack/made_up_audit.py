"""An empirical audit with made-up findings, for what tells of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from privacy.audit.roc import Rate
from protocol.job.job import Job
from simulation.attack.attack_bounds import Bound
from simulation.attack.empirical_audit import Attacker, EmpiricalAudit
from simulation.attack.provenance import Provenance
from tests import tiny


def made_up_audit(
    folder: Path,
    *,
    lower: float = 1.234,
    draws: float = 0.25,
    attackers: tuple[str, ...] = ("rounds", "adapter"),
    **changes: Any,
) -> EmpiricalAudit:
    """An audit of the tiny job; ``lower`` is its largest bound, and the promise is 2.991."""
    job = tiny.job(folder, **changes)
    rate = Rate(value=0.5625, low=0.5, high=0.625)
    return EmpiricalAudit(
        job=job.name,
        site="site-1",
        canaries=1000,
        present=489,
        upper=2.991,
        delta=1e-5,
        confidence=0.95,
        bounds=(
            Bound(attacker="rounds", form="any", epsilon=0.0, of="guesses"),
            Bound(attacker="rounds", form="gaussian", epsilon=lower, of="releases 1 and 2"),
            Bound(attacker="adapter", form="any", epsilon=0.0, of="guesses"),
        ),
        draws=draws,
        attackers=tuple(
            Attacker(name=name, auc=rate, tpr_at_permille=rate, tpr_at_percent=rate) for name in attackers
        ),
        curves=dict.fromkeys(attackers, ((0.0, 0.0), (0.1, 0.4), (1.0, 1.0))),
        provenance=provenance(job),
    )


def provenance(job: Job) -> Provenance:
    return Provenance(
        job=job,
        asked=1000,
        seed=20,
        job_digest="1a" * 32,
        data_digest="2b" * 32,
        model_digest="3c" * 32,
        layout_digest="4d" * 32,
        versions={"confide": "0.6.0", "torch": "2"},
        began=1_700_000_000,
    )
