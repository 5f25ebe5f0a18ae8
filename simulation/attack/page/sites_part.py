"""What an audit's page says of whole sites that were looked for in the sums."""

from __future__ import annotations

from runs.formats import format_count, format_epsilon, format_lower
from runs.report.audit_charts import bounds_chart, roc_chart
from simulation.attack.page import audit_words as words
from simulation.attack.page.part import Chart, Part
from simulation.attack.site_attack import SiteAudit

_TITLE = words.SEATS["rounds"].title


def sites_part(audit: SiteAudit, *, name: str) -> Part:
    """Its part of the page; ``name`` begins the ids of its charts."""
    rates = audit.attackers[0]
    curves = {_TITLE: rates.curve}
    bars = {f"{bound.attacker}, {bound.form}": bound.epsilon for bound in audit.bounds}
    side = (
        "under it: these attempts found nothing against the promise"
        if audit.bounds_hold
        else "above it, and so the promise does not hold"
    )
    return Part(
        finding=audit,
        title="Whole sites in the sums",
        seats=("rounds",),
        attempts=len(audit.bounds),
        key=("Sites", str(audit.sites), f"{audit.present} of them sent something"),
        tried=(
            f"Of {format_count(audit.sites, 'site')}, {audit.present} sent a random direction of their own "
            "in each round, four times as long as a site is allowed to, and the others nothing, which is "
            "what the promise compares a site with. Limits, noise, masks and the sum were those of a real "
            "run; only training was left out.",
            f"The attacker saw {format_count(audit.rounds, 'sum')} of {audit.numbers:,} numbers, knew all "
            "directions, and told from each sum which sites were in it.",
        ),
        found=(
            "An attacker that sees nothing puts a site that sent something before one that did not half of "
            f"the time. This one does so {words.share(rates.auc.value)} of the time.",
            f"How wide the noise is beside what a site adds shows that ε is at least "
            f"{format_lower(audit.lower)}, if the noise is Gaussian. The promise is "
            f"{format_epsilon(audit.upper)}: the number is {side}.",
        ),
        charts=(
            Chart(
                caption="How many of the sites that sent something are found",
                svg=roc_chart(curves, epsilon=audit.upper, delta=audit.delta, name=f"{name}-roc"),
            ),
            Chart(
                caption="How large ε must be at least",
                svg=bounds_chart(bars, upper=audit.upper, name=f"{name}-bounds"),
            ),
        ),
        note=f"Left: of one sum at a time, where the promise is for all of them together. {words.ROC_NOTE} "
        f"Right: {words.BARS_NOTE}",
        tables=(words.rates_table([rates], [_TITLE], of="sites"),),
        limits=("Noise that is the same in two rounds was not looked for among whole sites.",),
    )
