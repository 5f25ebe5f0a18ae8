"""An audit in words: what its report says to a reader who knows neither the code nor the field."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from privacy.audit.roc import Rate
from runs.formats import format_delta, format_epsilon, format_lower, format_percent
from runs.report.notices import Notice
from simulation.attack.attack_bounds import Bound, Form
from simulation.attack.empirical_audit import EmpiricalAudit


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where an attacker sits: a short ``title``, what it ``sees``, and ``who`` is in its place in life."""

    title: str
    sees: str
    who: str


SEATS = {
    "site": Seat(
        title="reads the site’s updates",
        sees="each update that the site with the canaries sends, before it is added to the others’",
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
ASSUMES: dict[Form, str] = {
    "any": "nothing but the coins",
    "curve": "the noise is of the planned kind, of whatever strength",
    "gaussian": "examples are drawn as planned, and the noise is Gaussian",
}


def verdict_sentence(audit: EmpiricalAudit) -> str:
    """What came out, in one sentence."""
    upper, lower = format_epsilon(audit.upper), format_lower(audit.lower)
    sure = format_percent(audit.confidence)
    if not audit.bounds_hold:
        return (
            f"The promise is broken. It was ε ≤ {upper}, and an attack shows, with a confidence of {sure}, "
            f"that ε is at least {lower}: what left the site tells more about single examples than it may."
        )
    if not audit.drawn_as_planned:
        return (
            f"The promise is broken. ε ≤ {upper} is for examples that are drawn as the plan says, anew in "
            f"each step and each by its own chance, and the canaries were not: {_chance(audit)}."
        )
    return (
        f"No attack broke the promise. The promise is ε ≤ {upper}; the strongest of {len(audit.bounds)} "
        f"attempts shows, with a confidence of {sure}, that ε is at least {lower}."
    )


def promise_sentences(audit: EmpiricalAudit) -> list[str]:
    """What was promised, and what it means for one person who is after one example."""
    upper, delta = audit.upper, format_delta(audit.delta)
    sure = 1.0 / (1.0 + math.exp(-upper))
    factor = "more than a million" if upper > math.log(1e6) else f"{math.exp(upper):,.1f}"
    return [
        "The job promises for each single example (one row of a site’s data) that its presence hardly "
        "shows in what the site gives away. The promise has two numbers, "
        f"ε = {format_epsilon(upper)} and δ = {delta}. Smaller is better, and 0 would be perfect.",
        f"In terms of an attacker: someone who thinks it as likely as not that a certain example is in the "
        f"data, and then studies everything that was given away, can become at most {_share(sure)} sure of "
        f"it, but for a chance of about {delta}. In terms of chances: no outcome becomes more than e^ε = "
        f"{factor} times as likely because the example is there.",
        "The promise is for an example and not for a person: someone with several examples in the data is "
        "protected less. And it does not hide what is true of the data as a whole, which is what the model "
        "is meant to learn.",
    ]


def seats_taken(audit: EmpiricalAudit) -> Iterator[tuple[Seat, str]]:
    """Each attacker's seat, and whether it was tried, or why not."""
    tried = {attacker.name for attacker in audit.attackers}
    for name, seat in SEATS.items():
        yield seat, "yes" if name in tried else "no: the job hides each update in a sum"


def trial_sentences(audit: EmpiricalAudit) -> list[str]:
    """What was tried: canaries, coins, one run, attackers."""
    out = audit.canaries - audit.present
    return [
        f"{audit.canaries:,} made-up examples, called canaries, took the places of as many real ones at "
        f"the site {audit.site}. For each of them a coin decided whether it is really there: "
        f"{audit.present:,} were in, and {out:,} were out, a blank in their places.",
        "A canary is made to be found. It pulls at one number of the model that no other canary pulls at, "
        "four times as hard as an example is allowed to, so that the limit on examples has to act. A real "
        "example is harder to find.",
        "Then the job was run once, with the code that a real run has: the same drawing of examples, "
        "limits, noise, sums and rules. Each attacker was given what it would see, and ranked all "
        "canaries by how much they seemed to be in. It did not know the coins.",
    ]


def finding_sentences(audit: EmpiricalAudit) -> list[str]:
    """What was found, before the tables."""
    best = audit.best
    seat = SEATS[best.attacker].title
    strongest = max(audit.attackers, key=lambda one: one.auc.value)
    found = [
        f"An attacker that sees nothing puts a canary that is in before one that is out half of the time. "
        f"The best attacker here ({SEATS[strongest.name].title}) does so {_share(strongest.auc.value)} of "
        f"the time."
    ]
    if audit.lower > 0:
        found.append(
            f"From how well the attackers did it can be computed how large ε must be at least. The highest "
            f"of these numbers is {format_lower(audit.lower)}, by the attacker that {seat}, from "
            f"{_releases(best)}. The promise is {format_epsilon(audit.upper)}: "
            + (
                "the number is above it, and so the promise does not hold."
                if not audit.bounds_hold
                else "the number is under it, and so nothing speaks against the promise."
            )
        )
    else:
        found.append(
            "From how well the attackers did it can be computed how large ε must be at least. Here that is "
            f"0 for each of them: nothing speaks against the promise of {format_epsilon(audit.upper)}."
        )
    found.append(
        f"How often each canary was drawn was compared with the plan, too: {_chance(audit)}."
        + ("" if audit.drawn_as_planned else " So examples are not drawn as the promise takes for granted.")
    )
    return found


def limits(audit: EmpiricalAudit) -> list[str]:
    """What the audit does not show, a sentence each."""
    wrong = format_percent(1.0 - audit.confidence)
    return [
        "An audit is a test and not a proof. That these attacks did not get further does not rule out "
        "that better ones would.",
        f"With a confidence of {format_percent(audit.confidence)}, code without a fault is called broken "
        f"by bad luck in at most {wrong} of all audits.",
        "The run was a simulation on the auditor’s machine with the job’s data. It shows what the code "
        "does with this job, not what happened at a real site, where no canaries are planted.",
        "Only what is given away was attacked: not the machines, the keys or how long an answer takes.",
        "That examples are drawn as planned is taken for granted by the attempts that assume it. How often "
        "canaries were drawn speaks for it or against it; other tests hold the rest.",
    ]


def find_warnings(audit: EmpiricalAudit) -> list[Notice]:
    """What a reader must know before the rest, gravest first."""
    found, job = [], audit.provenance.job
    if not audit.bounds_hold:
        best = audit.best
        text = (
            f"The attacker that {SEATS[best.attacker].title} shows ε ≥ {format_lower(best.epsilon)} from "
            f"{_releases(best)}, where ε ≤ {format_epsilon(audit.upper)} is promised. Something between an "
            "example and what is given away does not do what its plan says: stop runs of this kind, and "
            "find out what, before more is given away."
        )
        found.append(Notice(title="The promise is broken", text=text))
    if not audit.drawn_as_planned:
        text = (
            f"Of the canaries’ draws: {_chance(audit)}. A smaller ε is promised because chance decides who "
            "is drawn. Stop such runs, and find out how examples are drawn, before more is given away."
        )
        found.append(Notice(title="Examples are not drawn as promised", text=text))
    if job.seeds.noise is not None:
        text = (
            f"The job fixes its noise (seeds.noise = {job.seeds.noise}). Whoever knows that number can "
            "take the noise away: such a run protects nobody, whatever this audit finds."
        )
        found.append(Notice(title="Reproducible, therefore not private", text=text))
    return found


def format_rate(rate: Rate) -> str:
    """A rate with its interval, in percent: 50.3 % (46.8 to 53.9)."""
    return f"{format_percent(rate.value)} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _releases(bound: Bound) -> str:
    """What a bound was computed from, as a person says it."""
    if bound.of == "guesses":
        return "its guesses"
    if bound.of.startswith("all "):
        return f"{bound.of} together"
    if bound.of.startswith("releases "):
        return f"the difference of {bound.of}"
    return f"the part {bound.of} of the model"


def _chance(audit: EmpiricalAudit) -> str:
    """How odd the canaries' draws are, as a person says it."""
    share = f"at most {format_percent(audit.draws)}" if audit.draws > 0.001 else "fewer than 0.1 %"
    return f"counts as odd as these come by chance in {share} of runs that keep to it"


def _share(value: float) -> str:
    """A share in percent that never rounds up to certainty."""
    return format_percent(value) if value < 0.9995 else "practically 100 %"
