"""What an audit's page says of words that were recovered from what a coordinator reads."""

from __future__ import annotations

from runs.formats import format_count, format_percent
from runs.report.audit_charts import shares_chart
from simulation.attack.inversion import Inversion, View
from simulation.attack.page.audit_words import is_hidden
from simulation.attack.page.part import Chart, Part, Table

VIEWS = {
    "update": "one site’s update, as it is",
    "sum": "the sum under masks",
    "private sum": "the sum under masks, with noise",
}
METHODS = {
    "pooled": "from the change of the model’s last layer it took the text’s features, and sought words "
    "with such features",
    "span": "it kept each word that fits into what the model’s lowest trained layer read",
}


def inversion_part(inversion: Inversion, *, name: str) -> Part:
    """Its part of the page; ``name`` begins the ids of its charts."""
    shares = {_bar(view): (view.recall, view.chance) for view in inversion.views}
    sizes = ", ".join(str(size) for size in sorted({view.batch for view in inversion.views}))
    return Part(
        finding=inversion,
        title="Words of single texts",
        seats=("rounds",) if is_hidden(inversion.provenance) else ("site", "rounds"),
        attempts=0,
        key=("Texts", str(inversion.texts), f"of the site {inversion.site}"),
        tried=(
            f"The attacker is a coordinator that keeps to the protocol and looks at what it reads. Of "
            f"{format_count(inversion.texts, 'text')} of the site {inversion.site}, one after the other, "
            f"it tried to recover the words from a single step: {METHODS[inversion.method]}.",
            "It was given three things to read, side by side: the site’s update as it is, which a job that "
            f"sums under masks hides; the sum of all {inversion.sites} sites; and that sum with the noise "
            f"that the job adds. Each was of a step of so many texts a site: {sizes}. A step of one text "
            "is the worst there is.",
        ),
        found=_found(inversion),
        charts=(
            Chart(
                caption="How many of a text’s words were recovered",
                svg=shares_chart(shares, name=f"{name}-words"),
            ),
        ),
        note="Blue is what was found of a text’s words; grey is what the same guesses find in other texts, "
        "by chance. Where both are as long, nothing was told.",
        tables=(
            Table(
                caption="Words recovered, in the mean over the texts",
                headings=(
                    "What was read",
                    "Texts in the step",
                    "Found",
                    "By chance",
                    "Guesses right",
                ),
                rows=tuple(_row(view) for view in inversion.views),
            ),
        ),
        limits=(
            "Other attacks on texts go further with more work. That these find nothing proves nothing; "
            "what the noise promises holds against them all.",
        ),
    )


def _found(inversion: Inversion) -> tuple[str, ...]:
    by_name = {name: [view for view in inversion.views if view.name == name] for name in VIEWS}
    told = []
    for name, views in by_name.items():
        best = max(views, key=lambda view: view.recall - view.chance, default=None)
        if best is not None:
            told.append(
                f"{VIEWS[name]}: {format_percent(best.recall)} at the most, where chance alone finds "
                f"{format_percent(best.chance)}"
            )
    return (f"Of a text’s words were found, from {'; from '.join(told)}.",)


def _bar(view: View) -> str:
    return f"{view.name}, {format_count(view.batch, 'text')}"


def _row(view: View) -> tuple[str, ...]:
    shares = (view.recall, view.chance, view.precision)
    return (VIEWS[view.name], str(view.batch), *map(format_percent, shares))
