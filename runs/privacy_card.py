"""The privacy card of an exported adapter: what it promises, of whom, signed by the coordinator.

::

    privacy-card.json    {"card": {…}, "key": "…", "signature": "…"}

The signature covers the card's canonical JSON, and the card the digests of all files beside it but
``README.md``, which people edit. Whoever has the folder can check it without the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from privacy.accounting.banded_plan import BandedPlan
from privacy.accounting.phased_plan import phases_of
from privacy.accounting.plan import Plan
from privacy.canonical import canonical_json
from privacy.durable import BY_UMASK, write_durably
from privacy.errors import AuditError, SignatureError, UserError
from privacy.identity import verify
from protocol.job.job_file import job_digest
from protocol.job.manifest import Manifest
from runs.best_round import has_stopped
from runs.model_names import public_name
from runs.run_folder import RoundRecord, RunFolder
from runs.spent import last_epsilon

FILE = "privacy-card.json"
PURPOSE = "privacy card"  # what the signature is for
README = "README.md"

_ACCOUNTANTS = {"pld": "privacy loss distributions", "rdp": "Rényi divergences"}
# A file of one of these beside an adapter may be loaded in its place.
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Guarantee(_Part):
    """What is promised for each ``unit``: ``epsilon`` at ``delta``, the largest among the sites.

    ``epsilon`` is None where nothing is promised, and ``caveat`` says why. ``adjacency``, ``accountant``
    and ``noise_multipliers``, the least and the largest of a site's, are None where no plan was followed
    yet. ``metrics_epsilon`` is what the counts after the last round cost beside it, at δ = 0.
    ``coefficients`` are those of correlated noise in units of 2^-12, each that a site had once; None where
    each step's noise is its own.
    """

    unit: str
    epsilon: float | None
    delta: float
    adjacency: str | None
    mechanism: str
    accountant: str | None
    clipping_norm: float
    noise_multipliers: tuple[float, float] | None
    metrics_epsilon: float
    caveat: str | None
    coefficients: tuple[tuple[int, ...], ...] | None = None

    @property
    def bands(self) -> tuple[int, int] | None:
        """How many steps' noise is correlated, the fewest and the most of a site's; None if none is."""
        counts = [len(one) for one in self.coefficients or ()]
        return (min(counts), max(counts)) if counts else None


class Crowd(_Part):
    """Among whom: sites that trained, sites in a round, and the fewest that a round may have.

    ``datasets`` counts fingerprints of data sets, one a site: the ledgers know what is in them.
    """

    sites: int
    in_a_round: int
    least: int
    datasets: int
    sums: str


class AuditResult(_Part):
    """What an empirical audit of the same job found; ``evidence`` is SHA-256 of its JSON."""

    verdict: Literal["not refuted", "refuted"]
    upper: float
    lower: float
    delta: float
    confidence: float
    canaries: int
    evidence: str


class PrivacyCard(_Part):
    """All of a card. Digests are SHA-256 as hex; ``files`` has those of the files beside it, by name.

    ``averaged`` says of which rounds' adapters this is an average; None if it is of ``round`` alone.
    """

    format: Literal[1] = 1
    run: str
    manifest: str
    federation: str | None
    round: int
    rounds: int
    averaged: str | None = None
    model: str
    model_digest: str
    privacy: Guarantee
    crowd: Crowd
    audit: AuditResult | None
    versions: dict[str, str]
    files: dict[str, str]


def make_card(
    folder: RunFolder,
    *,
    number: int,
    exported: Path,
    audit: AuditResult | None = None,
    averaged: str | None = None,
) -> PrivacyCard:
    """The card of the adapter after round ``number``, as it lies in the folder ``exported``."""
    manifest, every = folder.manifest, folder.records()
    facts = folder.facts
    # Of all rounds: which of them is exported, or was the last, may have been chosen by what they released.
    plans = _plans(folder, every)
    spent = last_epsilon(every, folder.metrics)
    if has_stopped(manifest.job, every):
        planned = max((plan.epsilon for plan in plans), default=0.0)
        spent = {site: epsilon and max(epsilon, planned) for site, epsilon in spent.items()}
    return PrivacyCard(
        run=manifest.run,
        manifest=manifest.digest.hex(),
        federation=facts.get("federation"),
        round=number,
        rounds=manifest.job.training.rounds,
        averaged=averaged,
        model=public_name(manifest.job.model.source),
        model_digest=manifest.model_digest,
        privacy=_guarantee(manifest, spent, plans),
        crowd=Crowd(
            sites=len(spent),
            in_a_round=manifest.cohort,
            least=manifest.min_survivors,
            datasets=len(spent),
            sums=manifest.job.aggregation.kind,
        ),
        audit=audit,
        versions=dict(facts["versions"]),
        files={path.relative_to(exported).as_posix(): _digest(path) for path in _files(exported)},
    )


def read_audit(path: Path, manifest: Manifest) -> AuditResult:
    """What ``confide audit empirical --report`` wrote beside its page, for a run of the very same job.

    Raises UserError for another file, and for an audit of another job.
    """
    try:
        content = path.read_bytes()
        table = json.loads(content)
        job, model = table["provenance"]["job_digest"], table["provenance"]["model_digest"]
        found = {name: table[name] for name in AuditResult.model_fields if name != "evidence"}
        result = AuditResult(evidence=hashlib.sha256(content).hexdigest(), **found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--audit: expected the .json that confide audit empirical --report wrote, got {path}: "
            f"{error!r}"
        ) from error
    if (job, model) != (job_digest(manifest.job), manifest.model_digest):
        raise UserError(
            f"--audit: {path} is of another job or model than run {manifest.run}: audit the run's own "
            "job.toml"
        )
    return result


def write_card(card: PrivacyCard, folder: RunFolder, exported: Path) -> None:
    """Write a card beside what it is of, signed where the coordinator's key is at hand."""
    table: dict[str, Any] = {"card": card.model_dump(mode="json"), "key": None, "signature": None}
    if folder.key_path.exists():
        identity = folder.identity
        table["key"] = identity.public.hex()
        table["signature"] = identity.sign(PURPOSE, canonical_json(table["card"])).hex()
    content = json.dumps(table, indent=1, ensure_ascii=False).encode() + b"\n"
    write_durably(exported / FILE, content, mode=BY_UMASK)


def check_card(path: Path, *, key: str | None = None) -> tuple[PrivacyCard, str]:
    """Verify the card in a folder, or the one named, and return it with the key that signed it, as hex.

    ``key`` is the coordinator's public key, as hex, if it is known from elsewhere: without it, what is
    shown is that whoever has the card's own key stands by it. Raises AuditError for a card that is
    not signed, was changed or is signed by another key, and for files that are not those that it is of.
    """
    place = path / FILE if path.is_dir() else path
    card, signer = _verified(place)
    if key is not None and signer != key.lower():
        raise AuditError(f"the card is signed by key {signer}, not by {key}")
    for name, digest in card.files.items():
        beside = place.parent / name
        # No more than the name is looked at: a download may be links to where the files are kept.
        outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
        if outside or not beside.is_file():
            raise AuditError(f"{name} is missing beside the card")
        if _digest(beside) != digest:
            raise AuditError(f"{name} is not the file that the card is of: it was changed, or replaced")
    for found in _files(place.parent):
        name = found.relative_to(place.parent).as_posix()
        if found.suffix in _WEIGHTS and name not in card.files:
            raise AuditError(
                f"{name} is not among the files that the card is of, and may be loaded for one"
            )
    return card, signer


def _verified(place: Path) -> tuple[PrivacyCard, str]:
    try:
        table = json.loads(place.read_bytes())
        card, key, signature = table["card"], table["key"], table["signature"]
        if key is None or signature is None:
            raise AuditError(
                f"{place} is not signed: it was exported where the coordinator's key was not, and anyone "
                "could have written it"
            )
        # Before anything of it is believed.
        verify(bytes.fromhex(key), PURPOSE, canonical_json(card), bytes.fromhex(signature))
        return PrivacyCard.model_validate_json(json.dumps(card)), str(key)
    except OSError as error:
        raise AuditError(f"no card at {place}: {error.strerror}") from error
    except SignatureError as error:
        raise AuditError(f"{place} was changed: {error}") from error
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AuditError(f"{place} cannot be read as a privacy card: {error!r}") from error


def _guarantee(manifest: Manifest, spent: Mapping[str, float | None], plans: Sequence[Plan]) -> Guarantee:
    job, privacy = manifest.job, manifest.job.privacy
    known = [epsilon for epsilon in spent.values() if epsilon is not None]
    caveat = None
    if not privacy.protects:
        caveat = "the job adds no noise: nothing is promised"
    elif job.seeds.noise is not None:
        caveat = "the job fixes its noise, which can be taken away again: nothing is promised"
    elif len(known) < len(spent):
        caveat = "a site's ε has no bound"
    multipliers = [one.mechanism.multiplier for plan in plans for one in phases_of(plan) or (plan,)]
    correlated = {plan.coefficients for plan in plans if isinstance(plan, BandedPlan)}
    return Guarantee(
        unit=privacy.unit,
        epsilon=max(known, default=0.0) if caveat is None else None,
        delta=privacy.delta,
        adjacency=plans[0].adjacency if plans else None,
        mechanism=privacy.mechanism,
        accountant=_ACCOUNTANTS[plans[0].accountants[0]] if plans and privacy.protects else None,
        clipping_norm=privacy.bound,
        noise_multipliers=(min(multipliers), max(multipliers)) if plans and privacy.protects else None,
        metrics_epsilon=job.metrics.epsilon,
        caveat=caveat,
        coefficients=tuple(sorted(correlated)) or None,
    )


def _plans(folder: RunFolder, records: Sequence[RoundRecord]) -> list[Plan]:
    """The plan of each site that trained, from the last receipt that it signed until then."""
    found: dict[str, Plan] = {}
    keys = folder.public_keys
    for record in reversed(records):
        missing = record.present - found.keys()
        if missing:
            kept = folder.receipts(record.round)
            found |= {name: kept[name].read(keys[name]).plan for name in missing}
    return list(found.values())


def _files(folder: Path) -> Iterator[Path]:
    """What a card is of: all but itself, the README, and what is hidden."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path != folder / FILE and path != folder / README:
            yield path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
