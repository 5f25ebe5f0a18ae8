"""Attacks with made-up findings, for what tells of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from privacy.audit.roc import Rate, Rates
from protocol.job.job import Job
from protocol.job.job_file import job_toml
from simulation.attack.attack_bounds import Bound
from simulation.attack.empirical_audit import EmpiricalAudit
from simulation.attack.inversion import Inversion, View
from simulation.attack.membership_attack import Limits, MembershipAttack, MembershipScore
from simulation.attack.provenance import Provenance
from simulation.attack.site_attack import SiteAudit
from tests import tiny

RATE = Rate(value=0.5625, low=0.5, high=0.625)
CURVE = ((0.0, 0.0), (0.1, 0.4), (1.0, 1.0))


def rates(name: str) -> Rates:
    return Rates(name=name, auc=RATE, tpr_at_permille=RATE, tpr_at_percent=RATE, curve=CURVE)


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
        attackers=tuple(map(rates, attackers)),
        provenance=provenance(job, "empirical", "--canaries", "1000"),
    )


def made_up_attack(
    folder: Path, *, lower: float = 0.5, upper: float = 2.991, **changes: Any
) -> MembershipAttack:
    """A membership attack on the tiny job, of which the one by gradients shows ε ≥ ``lower``."""
    job = tiny.job(folder, **changes)
    return MembershipAttack(
        job=job.name,
        kind="own",
        targets=2000,
        present=1012,
        shadows=16,
        upper=upper,
        delta=1e-5,
        confidence=0.95,
        attacks=tuple(
            MembershipScore(**vars(rates(name)), examples=2000, epsilon=epsilon)
            for name, epsilon in (("loss", 0.0), ("reference", 0.0), ("lira", 0.125), ("gradient", lower))
        ),
        limits=Limits(auc=0.6875, tpr_at_permille=0.0025, tpr_at_percent=0.024),
        exposure=None,
        measures={"accuracy": 0.75},
        provenance=provenance(job, "attack", "--kind", "own", "--targets", "2000", "--shadows", "16"),
    )


def made_up_inversion(folder: Path, **changes: Any) -> Inversion:
    job = tiny.job(folder, **changes)
    return Inversion(
        job=job.name,
        site="site-1",
        sites=3,
        epsilon=3.0,
        method="pooled",
        texts=4,
        views=(
            View(name="update", batch=1, recall=0.6875, precision=0.5, chance=0.03125),
            View(name="sum", batch=1, recall=0.125, precision=0.1, chance=0.03125),
            View(name="private sum", batch=1, recall=0.0, precision=0.0, chance=0.0),
        ),
        provenance=provenance(job, "inversion", "--texts", "4"),
    )


def made_up_site_audit(folder: Path, *, lower: float = 1.4) -> SiteAudit:
    job = tiny.job(folder, privacy={"unit": "site", "mechanism": "skellam"}, aggregation={"kind": "masks"})
    return SiteAudit(
        job=job.name,
        sites=8,
        present=4,
        rounds=6,
        numbers=98,
        bounds=(Bound(attacker="sums", form="gaussian", epsilon=lower, of="all releases"),),
        attackers=(rates("sums"),),
        upper=7.5,
        delta=1e-5,
        confidence=0.95,
        provenance=provenance(job, "sites"),
    )


def without_noise(folder: Path) -> MembershipAttack:
    return made_up_attack(folder, lower=2.3, upper=math.inf, privacy={"mechanism": "none"})


def provenance(job: Job, *words: str) -> Provenance:
    return Provenance(
        command=" ".join(["confide audit", words[0], "job.toml", *words[1:], "--seed 20"]),
        seed=20,
        job_toml=job_toml(job),
        unit=job.privacy.unit,
        mechanism=job.privacy.mechanism,
        noise_seed=job.seeds.noise,
        job_digest="1a" * 32,
        data_digest="2b" * 32,
        model_digest="3c" * 32,
        layout_digest="4d" * 32,
        versions={"confide": "0.6.0", "torch": "2"},
        began=1_700_000_000,
        run_seconds=10.0,
        attack_seconds=2.5,
    )
