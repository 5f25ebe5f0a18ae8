"""An audit's report: one page for whoever must answer for privacy, and its twin for machines."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from privacy.durable import BY_UMASK, write_durably
from privacy.errors import UserError
from protocol.job.job_file import job_toml
from protocol.plain_text import escaped
from runs.formats import format_lower
from runs.report.audit_charts import bounds_chart, roc_chart
from runs.report.page_template import page_template
from simulation.attack import audit_words as words
from simulation.attack.empirical_audit import EmpiricalAudit
from simulation.attack.evidence import evidence, evidence_digest


def check_place(path: Path) -> None:
    """Raises UserError unless a report can be written there: before hours are spent on what it says."""
    if path.suffix != ".html" or path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"--report: expected a name that ends in .html, in a folder that exists, got {path}; its twin "
            "for machines is written beside it, as .json"
        )


def write_audit_report(audit: EmpiricalAudit, path: Path) -> Path:
    """Write the page, and its twin beside it as ``.json``; returns the twin. Raises as ``check_place``."""
    check_place(path)
    twin = path.with_suffix(".json")
    write_durably(twin, evidence(audit), mode=BY_UMASK)
    write_durably(path, render_audit(audit, twin=twin.name).encode(), mode=BY_UMASK)
    return twin


def render_audit(audit: EmpiricalAudit, *, twin: str) -> str:
    """The page as HTML: no script, nothing fetched, the same audit gives the same bytes.

    ``twin`` is the name of its JSON, which the page tells the digest of.
    """
    made, seats = audit.provenance, words.SEATS
    curves = {seats[name].title: curve for name, curve in audit.curves.items()}
    bars = {f"{bound.attacker}, {bound.form}": bound.epsilon for bound in audit.bounds}
    page = page_template("simulation.attack", "audit.html.j2").render(
        audit=audit,
        refuted=audit.verdict == "refuted",
        verdict=words.verdict_sentence(audit),
        warnings=words.find_warnings(audit),
        promise=words.promise_sentences(audit),
        seats=list(words.seats_taken(audit)),
        trial=words.trial_sentences(audit),
        findings=words.finding_sentences(audit),
        limits=words.limits(audit),
        titles={name: seat.title for name, seat in seats.items()},
        assumes=words.ASSUMES,
        lower=format_lower,
        rate=words.format_rate,
        roc=roc_chart(curves, epsilon=audit.upper, delta=audit.delta, name="roc"),
        bars=bounds_chart(bars, upper=audit.upper, name="bounds"),
        made=made,
        command=command(audit),
        job_toml=job_toml(made.job),
        moment=time.strftime("%Y-%m-%d %H:%M", time.gmtime(made.began)),
        twin=twin,
        digest=evidence_digest(audit),
    )
    return escaped(page, lines=True)


def command(audit: EmpiricalAudit) -> str:
    """What a person types to make the audit again, of the job in the file ``job.toml``."""
    made = audit.provenance
    asked = ["--canaries", str(made.asked), "--seed", str(made.seed)]
    return shlex.join(["confide", "audit", "empirical", "job.toml", *asked])
