"""What an audit's page says of who was told to be in the training data."""

from __future__ import annotations

import math

from runs.formats import format_epsilon, format_lower, format_percent
from runs.report.audit_charts import bounds_chart, roc_chart
from simulation.attack.attack_targets import Kind
from simulation.attack.membership_attack import MembershipAttack, MembershipScore
from simulation.attack.page import audit_words as words
from simulation.attack.page.part import Chart, Part

# What each attack compares, and the seat of whoever can make it.
ATTACKS = {
    "loss": ("how well the final model fits it", "adapter"),
    "reference": ("that, less how well models without it do", "adapter"),
    "lira": ("that, with models with it and without (LiRA)", "adapter"),
    "gradient": ("each round’s change with its own gradient", "rounds"),
}
_TARGETS: dict[Kind, str] = {
    "own": "of the sites’ own examples",
    "labels": "examples, each with a wrong label, which a model can only learn by heart,",
    "text": "texts of random words, which a model can only learn by heart,",
}
_GROUPS: dict[Kind, str] = {
    "own": "of the sites’ groups of rows, each of one person’s,",
    "labels": "groups of rows, each row with a wrong label, which a model can only learn by heart,",
    "text": "groups of texts of random words, which a model can only learn by heart,",
}


def membership_part(attack: MembershipAttack, *, name: str) -> Part:
    """Its part of the page; ``name`` begins the ids of its charts."""
    titles = [ATTACKS[one.name][0] for one in attack.attacks]
    curves = {one.name: one.curve for one in attack.attacks}
    bars = {one.name: one.epsilon for one in attack.attacks}
    roc = roc_chart(curves, epsilon=attack.upper, delta=attack.delta, name=f"{name}-roc")
    charts, note = [Chart(caption="How many members an attack finds", svg=roc)], words.ROC_NOTE
    if math.isfinite(attack.upper):
        bounds = bounds_chart(bars, upper=attack.upper, name=f"{name}-bounds")
        charts.append(Chart(caption="How large ε must be at least", svg=bounds))
        note = f"Left: {note} Right: {words.BARS_NOTE}"
    limits = attack.limits
    compared: list[tuple[str, ...]] = [words.GUESSING]
    if math.isfinite(attack.upper):
        most = (limits.auc, limits.tpr_at_permille, limits.tpr_at_percent)
        compared.append(("the most that can be, under the plan", *map(format_percent, most)))
    rows = [f"{title} ({one.name})" for title, one in zip(titles, attack.attacks, strict=True)]
    return Part(
        finding=attack,
        title="Who was in the training data",
        seats=tuple(dict.fromkeys(ATTACKS[one.name][1] for one in attack.attacks)),
        attempts=len(attack.attacks),
        key=("Attacked", f"{attack.targets:,}", f"{attack.present:,} of them in"),
        tried=_tried(attack),
        found=tuple(_found(attack, attack.best)),
        charts=tuple(charts),
        note=note,
        tables=(words.rates_table(attack.attacks, rows, of=f"{words.unit_of(attack)}s", more=compared),),
        limits=(
            f"The attacker had {attack.shadows} models of its own to compare with. With more of them, or "
            "with other attacks, somebody may tell more, but not more than the promise allows.",
        ),
    )


def _tried(attack: MembershipAttack) -> tuple[str, ...]:
    out, unit = attack.targets - attack.present, words.unit_of(attack)
    named = _GROUPS if unit == "group" else _TARGETS
    return (
        f"{attack.targets:,} {named[attack.kind]} were in the training data or not, by a coin for each: "
        f"{attack.present:,} were in, and {out:,} were left blank. The job was run once with them, and "
        f"{attack.shadows} times more with other coins, for the attacker to compare with.",
        f"Each attack ranked the {unit}s by how much they seemed to have been in, by what somebody in the "
        "attacker’s place has: the final model alone, or what every round released.",
    )


def _found(attack: MembershipAttack, best: MembershipScore) -> list[str]:
    strongest = max(attack.attacks, key=lambda one: one.auc.value)
    told = [
        "Whoever knows nothing puts an example that was in before one that was not half of the time. The "
        f"best attack here (by {ATTACKS[strongest.name][0]}) does so {words.share(strongest.auc.value)} of "
        f"the time, and at one false alarm in a hundred it finds "
        f"{format_percent(strongest.tpr_at_percent.value)} of those that were in."
    ]
    if math.isinf(attack.upper):
        told.append(
            "The job adds no noise. From the guesses it follows that ε is at least "
            f"{format_lower(best.epsilon)}."
        )
    else:
        above = "above it, and so the promise does not hold"
        under = "under it: these attempts found nothing against the promise"
        told.append(
            f"From the guesses it follows that ε is at least {format_lower(best.epsilon)}. The promise is "
            f"{format_epsilon(attack.upper)}: the number is {under if attack.bounds_hold else above}."
        )
    if attack.exposure is not None:
        told.append(
            f"The random texts that were in are exposed by {attack.exposure.after:.2f} bits in the mean, "
            f"after {attack.exposure.before:.2f} before training; 1.44 bits if nothing of them was learned."
        )
    return told
