"""An audit's page: all that attacks on one job found, for whoever must answer for privacy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy.durable import BY_UMASK, write_durably
from privacy.errors import UserError
from protocol.moments import utc_minute
from protocol.plain_text import escaped
from runs.formats import format_cost, format_lower
from runs.report.page_template import page_template
from simulation.attack.empirical_audit import EmpiricalAudit
from simulation.attack.evidence import evidence, read_evidence
from simulation.attack.finding import Claim, Finding
from simulation.attack.inversion import Inversion
from simulation.attack.membership_attack import MembershipAttack
from simulation.attack.page import audit_words as words
from simulation.attack.page.empirical_part import empirical_part
from simulation.attack.page.inversion_part import inversion_part
from simulation.attack.page.membership_part import membership_part
from simulation.attack.page.part import Part
from simulation.attack.page.sites_part import sites_part
from simulation.attack.site_attack import SiteAudit


@dataclass(frozen=True, kw_only=True)
class Source:
    """A finding, the ``name`` of the file that has it as JSON, and that file's SHA-256 as hex."""

    finding: Finding
    name: str
    digest: str


def check_place(path: Path, *, key: str = "--report") -> None:
    """Raises UserError unless a page can be written there: before hours are spent on what it says."""
    if path.suffix != ".html" or path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"{key}: expected a name that ends in .html, in a folder that exists, got {path}; what "
            "machines read of it ends in .json"
        )


def write_audit_report(finding: Finding, path: Path) -> Path:
    """Write the page, and its twin beside it as ``.json``; returns the twin. Raises as ``check_place``."""
    check_place(path)
    twin, content = path.with_suffix(".json"), evidence(finding)
    write_durably(twin, content, mode=BY_UMASK)
    page = render_audit([_source(finding, twin.name, content)])
    write_durably(path, page.encode(), mode=BY_UMASK)
    return twin


def join_reports(paths: Sequence[Path], to: Path) -> list[Finding]:
    """Write one page of what several attacks on one job found, from their twins; returns what they found.

    Raises UserError for a file that is none, for attacks on different jobs, data or models, for claims of
    whole sites beside others, and as ``check_place``.
    """
    check_place(to, key="--to")
    sources = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        sources.append(_source(read_evidence(content, name=str(path)), path.name, content))
    page = render_audit(sources)
    write_durably(to, page.encode(), mode=BY_UMASK)
    return [source.finding for source in sources]


def render_audit(sources: Sequence[Source]) -> str:
    """The page as HTML: no script, nothing fetched, the same findings give the same bytes.

    Raises UserError for findings that do not belong on one page.
    """
    _check_alike(sources)
    parts = [_part(source.finding, name=f"part-{k}") for k, source in enumerate(sources, start=1)]
    first, claim = parts[0].finding, words.telling(parts)
    page = page_template("simulation.attack.page", "audit.html.j2").render(
        job=first.job,
        claim=claim,
        promised=claim is not None and math.isfinite(claim.upper),
        lower=format_lower,
        confidence=words.joint_confidence(parts),
        verdict=words.verdict_sentence(parts),
        warnings=words.find_warnings(parts),
        promise=words.promise_sentences(parts),
        seats=list(words.seats_taken(parts)),
        parts=list(zip(parts, sources, strict=True)),
        limits=[*words.common_limits(parts), *(one for part in parts for one in part.limits)],
        made=first.provenance,
        cost=format_cost,
        moment=utc_minute(min(part.finding.provenance.began for part in parts)),
    )
    return escaped(page, lines=True)


def _source(finding: Finding, name: str, content: bytes) -> Source:
    return Source(finding=finding, name=name, digest=hashlib.sha256(content).hexdigest())


def _part(finding: Finding, *, name: str) -> Part:
    if isinstance(finding, EmpiricalAudit):
        return empirical_part(finding, name=name)
    if isinstance(finding, MembershipAttack):
        return membership_part(finding, name=name)
    if isinstance(finding, SiteAudit):
        return sites_part(finding, name=name)
    if isinstance(finding, Inversion):
        return inversion_part(finding, name=name)
    raise TypeError(f"no part of the page tells of {type(finding).__name__}")


def _check_alike(sources: Sequence[Source]) -> None:
    first = sources[0]
    claims = [source for source in sources if isinstance(source.finding, Claim)]
    of_sites = [source for source in claims if isinstance(source.finding, SiteAudit)]
    if of_sites and len(of_sites) < len(claims):
        raise UserError(
            f"expected claims of one unit, got one of whole sites in {of_sites[0].name} and others of "
            "single examples: they are two promises, write a page for each"
        )
    for other in sources[1:]:
        for what in ("job", "data", "model", "layout"):
            one, another = (getattr(s.finding.provenance, f"{what}_digest") for s in (first, other))
            if one != another:
                raise UserError(
                    f"expected attacks on one {what}, got that of SHA-256 {one[:16]}… in {first.name} and "
                    f"{another[:16]}… in {other.name}: give those of one job file with the same --set"
                )
