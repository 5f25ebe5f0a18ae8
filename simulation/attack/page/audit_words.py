"""An audit in words: what its page says to a reader who knows neither the code nor the field."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privacy.audit.roc import Rate, Rates
from runs.formats import format_delta, format_epsilon, format_lower, format_percent
from runs.report.notices import Notice
from simulation.attack.empirical_audit import EmpiricalAudit
from simulation.attack.finding import Claim
from simulation.attack.page.part import Part, Table
from simulation.attack.provenance import Provenance
from simulation.attack.site_attack import SiteAudit


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where an attacker sits: a short ``title``, what it ``sees``, and ``who`` is in its place in life."""

    title: str
    sees: str
    who: str


SEATS = {
    "site": Seat(
        title="reads the site’s updates",
        sees="each update that a site sends, before it is added to the others’",
        who="the coordinator, and whoever runs its server, where updates are not hidden",
    ),
    "rounds": Seat(
        title="sees each round’s result",
        sees="the model after each round, and so every sum of the sites’ updates",
        who="the coordinator, and every site that takes part",
    ),
    "adapter": Seat(
        title="has the final model",
        sees="the model at the end, and the one that all began with",
        who="whoever is given the finished model",
    ),
}
ROC_NOTE = (
    "An attacker that calls more of them “in” finds more of those that are, and raises more false alarms. "
    "A line on the dotted one is guessing; the higher a line, the better the attacker. Far left is where "
    "an attacker is hardly ever wrong, with one false alarm at most: a line that is high there names "
    "single ones. What the promise rules out is shaded; where few decide, a line may touch it by chance."
)
GUESSING = ("a coin", "50.0 %", "0.1 %", "1.0 %")
_UNITS = {
    "example": "example (one row of a site’s data)",
    "group": "group (all rows of one person, as a column of the data says whose a row is)",
    "site": "site (all of its data together)",
}
BARS_NOTE = (
    "Each bar is a number that ε cannot be under; a bar past the dashed line would break the promise. A "
    "short bar says only that this attempt proves little."
)


def claims_of(parts: Sequence[Part]) -> list[Claim]:
    """What was claimed and tested; nothing where words alone were looked for."""
    return [part.finding for part in parts if isinstance(part.finding, Claim)]


def telling(parts: Sequence[Part]) -> Claim | None:
    """The claim that speaks for all: the one most refuted, else the one of which most is shown."""
    return min(
        claims_of(parts),
        key=lambda claim: (claim.holds, -claim.lower if claim.holds else claim.margin),
        default=None,
    )


def joint_confidence(parts: Sequence[Part]) -> float:
    """How sure it is that all bounds of all parts hold: their errors add up at most."""
    return max(0.0, 1.0 - sum(1.0 - claim.confidence for claim in claims_of(parts)))


def verdict_sentence(parts: Sequence[Part]) -> str:
    """What came out, in one sentence."""
    claim = telling(parts)
    if claim is None:
        return "No promise was put to the test: the words of single texts were looked for."
    attempts = sum(part.attempts for part in parts)
    lower, joint = format_lower(claim.lower), format_percent(joint_confidence(parts))
    shown = f"shows, with a confidence of {joint}, that ε is at least {lower}."
    if math.isinf(claim.upper):
        return (
            f"Nothing is promised: the job adds no noise. The strongest of {attempts} calculations {shown}"
        )
    upper, sure = format_epsilon(claim.upper), format_percent(claim.confidence)
    if not claim.bounds_hold:
        return (
            f"The promise is broken. It was ε ≤ {upper}, and an attack shows, with a confidence of {sure}, "
            f"that ε is at least {lower}: what left the site tells more about {_units(claim)} than it may."
        )
    if isinstance(claim, EmpiricalAudit) and not claim.drawn_as_planned:
        return (
            f"The promise is broken. ε ≤ {upper} is for {unit_of(claim)}s that are drawn as the plan says, "
            f"anew in each step and each by its own chance, and the canaries were not: {chance(claim)}."
        )
    return (
        f"No attack broke the promise. The promise is ε ≤ {upper}; the strongest of {attempts} "
        f"calculations {shown}"
    )


def promise_sentences(parts: Sequence[Part]) -> list[str]:
    """What was promised, and what it means for one person who is after one example, or one site."""
    claim = telling(parts)
    if claim is None or math.isinf(claim.upper):
        return [
            "What was attacked here is told below. What the job promises by its noise, an audit of its "
            "claim says (confide audit empirical)."
            if claim is None
            else "The job adds no noise, and so promises nothing of any example: what was attacked here "
            "shows what noise is there to prevent."
        ]
    # Of the number that is shown, which is rounded up.
    upper, delta = math.ceil(100 * claim.upper - 1e-9) / 100, format_delta(claim.delta)
    sure = 1.0 / (1.0 + math.exp(-upper))
    factor = "more than a million" if upper > math.log(1e6) else f"{math.exp(upper):,.1f}"
    unit = unit_of(claim)
    site = unit == "site"
    where = "the federation" if site else "the data"
    given = "is given away" if site else "the site gives away"
    told = [
        f"The job promises for each single {_UNITS[unit]} that its presence hardly shows in what {given}. "
        f"The promise has two numbers, ε = {format_epsilon(upper)} and δ = {delta}. Smaller is better, "
        "and 0 would be perfect.",
        f"In terms of an attacker: someone who thinks it as likely as not that a certain {unit} is in "
        f"{where}, and then studies everything that was given away, can become at most {share(sure)} sure "
        f"of it, but for a chance of about {delta}. In terms of chances: but for the same {delta}, no "
        f"outcome becomes more than e^ε = {factor} times as likely because the {unit} is there.",
    ]
    whole = (
        "And it does not hide what is true of the data as a whole, which is what the model is meant to "
        "learn."
    )
    if unit == "example":
        told.append(
            "The promise is for an example and not for a person: someone with several examples in the data "
            f"is protected less. {whole}"
        )
    if unit == "group":
        told.append(
            "The promise is for all rows of a group together, as the data say whose a row is: someone who "
            f"stands in two groups is protected less. {whole}"
        )
    return told


def seats_taken(parts: Sequence[Part]) -> Iterator[tuple[Seat, str]]:
    """Each attacker's seat, and by which attacks it was tried, or why not."""
    hidden = is_hidden(parts[0].finding.provenance) or any(
        isinstance(part.finding, EmpiricalAudit) and "site" not in part.seats for part in parts
    )
    for name, seat in SEATS.items():
        tried = [part.title.lower() for part in parts if name in part.seats]
        if tried:
            yield seat, "yes" if len(parts) == 1 else f"yes: {'; '.join(tried)}"
        elif name == "site" and hidden:
            yield seat, "no: the job hides each update in a sum, by masks that have tests of their own"
        else:
            yield seat, "no"


def common_limits(parts: Sequence[Part]) -> list[str]:
    """What no part shows, a sentence each."""
    sure = joint_confidence(parts)
    told = [
        "An audit is a test and not a proof. That these attacks did not get further does not rule out "
        "that better ones would.",
        "The runs were simulations on the auditor’s machine with the job’s data. They show what the code "
        "does with this job, not what happened at a real site, where nothing is planted.",
        "Only what is given away was attacked: not the machines, the keys or how long an answer takes.",
    ]
    if claims_of(parts):
        told.insert(
            1,
            f"With a confidence of {format_percent(sure)}, code without a fault is called broken by bad "
            f"luck in at most {format_percent(1.0 - sure)} of all audits.",
        )
    return told


def find_warnings(parts: Sequence[Part]) -> list[Notice]:
    """What a reader must know before the rest, gravest first."""
    found = [notice for claim in claims_of(parts) for notice in _broken(claim)]
    noise = parts[0].finding.provenance.noise_seed
    if noise is not None:
        text = (
            f"The job fixes its noise (seeds.noise = {noise}). Whoever knows that number can "
            "take the noise away: such a run protects nobody, whatever this audit finds."
        )
        found.append(Notice(title="Reproducible, therefore not private", text=text))
    return found


def _broken(claim: Claim) -> Iterator[Notice]:
    if not claim.bounds_hold:
        text = (
            f"An attack shows ε ≥ {format_lower(claim.lower)}, where ε ≤ {format_epsilon(claim.upper)} is "
            f"promised. Something between {_units(claim)} and what is given away does not do what its plan "
            "says: stop runs of this kind, and find out what, before more is given away."
        )
        yield Notice(title="The promise is broken", text=text)
    if isinstance(claim, EmpiricalAudit) and not claim.drawn_as_planned:
        unit = unit_of(claim)
        text = (
            f"Of the canaries’ draws: {chance(claim)}. A smaller ε is promised because chance decides who "
            f"is drawn. Stop such runs, and find out how {unit}s are drawn, before more is given away."
        )
        yield Notice(title=f"{unit.title()}s are not drawn as promised", text=text)


def is_hidden(provenance: Provenance) -> bool:
    """Whether the job hides each site's update in a sum."""
    return bool(tomllib.loads(provenance.job_toml)["aggregation"]["kind"] != "none")


def rates_table(
    attackers: Sequence[Rates], titles: Sequence[str], *, of: str, more: Sequence[tuple[str, ...]] = ()
) -> Table:
    """How well attackers tell those that are in, a row each, and some ``more`` rows to compare with."""
    rows = [
        (title, format_rate(one.auc), format_rate(one.tpr_at_permille), format_rate(one.tpr_at_percent))
        for title, one in zip(titles, attackers, strict=True)
    ]
    return Table(
        caption=f"How well attackers tell {of} that are in, with intervals at 95 %",
        headings=("Attacker", "Right order of a pair (AUC)", "Found at 0.1 % false alarms", "at 1 %"),
        rows=(*rows, *more),
    )


def format_rate(rate: Rate) -> str:
    """A rate with its interval, in percent: 50.3 % (46.8 to 53.9)."""
    return f"{format_percent(rate.value)} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def chance(audit: EmpiricalAudit) -> str:
    """How odd the canaries' draws are, as a person says it."""
    if audit.draws > 0.05:
        return "these counts are nothing out of the ordinary for runs that keep to it"
    told = f"at most {format_percent(audit.draws)}" if audit.draws > 0.001 else "fewer than 0.1 %"
    return f"counts as odd as these come by chance in {told} of runs that keep to it"


def share(value: float) -> str:
    """A share in percent that never rounds up to certainty."""
    return format_percent(value) if value < 0.9995 else "practically 100 %"


def unit_of(claim: Claim) -> str:
    """What the claim that was attacked is for: an example, a group or a site."""
    if isinstance(claim, SiteAudit):
        return "site"
    return "group" if claim.provenance.unit == "group" else "example"


def _units(claim: Claim) -> str:
    unit = unit_of(claim)
    return "whole sites" if unit == "site" else f"single {unit}s"
