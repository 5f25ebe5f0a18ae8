"""What an audit's page says of canaries in one run."""

from __future__ import annotations

from runs.formats import format_epsilon, format_lower
from runs.report.audit_charts import bounds_chart, roc_chart
from simulation.attack.attack_bounds import Bound, Form
from simulation.attack.empirical_audit import EmpiricalAudit
from simulation.attack.page import audit_words as words
from simulation.attack.page.part import Chart, Part, Table

ASSUMES: dict[Form, str] = {
    "any": "nothing but the coins",
    "curve": "the noise is of the planned kind, of whatever strength",
    "gaussian": "examples are drawn as planned, and the noise is Gaussian",
}


def empirical_part(audit: EmpiricalAudit, *, name: str) -> Part:
    """Its part of the page; ``name`` begins the ids of its charts."""
    titles = [words.SEATS[one.name].title for one in audit.attackers]
    curves = {title: one.curve for title, one in zip(titles, audit.attackers, strict=True)}
    bars = {f"{bound.attacker}, {bound.form}": bound.epsilon for bound in audit.bounds}
    roc = roc_chart(curves, epsilon=audit.upper, delta=audit.delta, name=f"{name}-roc")
    return Part(
        finding=audit,
        title="Canaries in one run",
        seats=tuple(one.name for one in audit.attackers),
        attempts=len(audit.bounds),
        key=("Canaries", f"{audit.canaries:,}", f"{audit.present:,} of them in"),
        tried=_tried(audit),
        found=tuple(_found(audit)),
        charts=(
            Chart(caption="How many canaries an attacker finds", svg=roc),
            Chart(
                caption="How large ε must be at least",
                svg=bounds_chart(bars, upper=audit.upper, name=f"{name}-bounds"),
            ),
        ),
        note=f"Left: {words.ROC_NOTE} Right: {words.BARS_NOTE} The second table says what each rests on.",
        tables=(
            words.rates_table(audit.attackers, titles, of="canaries", more=[words.GUESSING]),
            _bounds_table(audit),
        ),
        limits=(
            "That examples are drawn as planned is taken for granted by the attempts that assume it. How "
            "often canaries were drawn speaks for it or against it; other tests hold the rest.",
        ),
    )


def _tried(audit: EmpiricalAudit) -> tuple[str, ...]:
    """Canaries, coins, one run, attackers."""
    out, unit = audit.canaries - audit.present, words.unit_of(audit)
    made = "a conspicuous row, four times as large as a row may be"
    if unit == "group":
        made = "rows that pull together four times as hard as a group may"
    return (
        f"{audit.canaries:,} made-up {unit}s, called canaries, took the places of as many real ones at "
        f"the site {audit.site}. For each of them a coin decided whether it is really there: "
        f"{audit.present:,} were in, and {out:,} were out, a blank in their places.",
        f"A canary is made to be found: {made}, so that the code has to cut it to size. It pulls at one "
        f"number of the model that no other canary pulls at. A real {unit} is harder to find.",
        f"Then the job was run once, with the code that a real run has: the same drawing of {unit}s, "
        "limits, noise, sums and rules. Each attacker was given what it would see, and ranked all "
        "canaries by how much they seemed to be in. It did not know the coins, but the job, and, unless it "
        f"has the final model alone, all {unit}s but the canaries: the promise is to hold against people "
        "who know that much.",
    )


def _found(audit: EmpiricalAudit) -> list[str]:
    """What was found, before the tables."""
    best, unit = audit.best, words.unit_of(audit)
    strongest = max(audit.attackers, key=lambda one: one.auc.value)
    told = [
        "An attacker that sees nothing puts a canary that is in before one that is out half of the time. "
        f"The best attacker here ({words.SEATS[strongest.name].title}) does so "
        f"{words.share(strongest.auc.value)} of the time."
    ]
    if audit.lower > 0:
        told.append(
            f"From how well the attackers did it can be computed how large ε must be at least. The highest "
            f"of these numbers is {format_lower(audit.lower)}, by the attacker that "
            f"{words.SEATS[best.attacker].title}, from {_releases(best)}. The promise is "
            f"{format_epsilon(audit.upper)}: "
            + (
                "the number is above it, and so the promise does not hold."
                if not audit.bounds_hold
                else "the number is under it: these attempts found nothing against the promise."
            )
        )
    else:
        told.append(
            "From how well the attackers did it can be computed how large ε must be at least. Here that is "
            f"0 for each of them: these attempts found nothing against the promise of ε ≤ "
            f"{format_epsilon(audit.upper)}."
        )
    told.append(
        f"How often each canary was drawn was compared with the plan, too: {words.chance(audit)}."
        + ("" if audit.drawn_as_planned else f" So {unit}s are not drawn as the promise takes for granted.")
    )
    return told


def _bounds_table(audit: EmpiricalAudit) -> Table:
    return Table(
        caption=f"Lower bounds on ε; with a confidence of {100 * audit.confidence:g} % all of these hold "
        "together",
        headings=("Attacker", "Calculation", "What its proof assumes", "From", "ε is at least"),
        rows=tuple(
            (
                f"{words.SEATS[bound.attacker].title} ({bound.attacker})",
                bound.form,
                ASSUMES[bound.form],
                bound.of,
                format_lower(bound.epsilon),
            )
            for bound in audit.bounds
        ),
        words=True,
    )


def _releases(bound: Bound) -> str:
    """What a bound was computed from, as a person says it."""
    if bound.of == "guesses":
        return "its guesses"
    if bound.of.startswith("all "):
        return f"{bound.of} together"
    if bound.of.startswith("releases "):
        return f"the difference of {bound.of}"
    return f"the part {bound.of} of the model"
