"""The report: one page that says what a run did, what it cost, and what privacy it gave.

It is self-contained: no script, nothing fetched. The text that people have to trust, the result and
the notices, is made in Python; ``report.html.j2`` only lays it out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.durable import BY_UMASK, write_durably
from protocol.job.job import Job
from protocol.job.job_file import job_toml
from protocol.plain_text import escaped
from protocol.processes.time_spent import Part, timed
from runs.assessment import read_assessment
from runs.averaged_adapter import read_average
from runs.comparison import Comparison, read_comparison
from runs.formats import (
    format_bytes,
    format_count,
    format_delta,
    format_epsilon,
    format_measure,
    format_percent,
    format_points,
)
from runs.kept_answers import read_answers
from runs.metrics import Metrics
from runs.report import charts
from runs.report.assessed_section import accuracy_interval, assessed_section
from runs.report.notices import find_notices
from runs.report.page_template import page_template
from runs.run_folder import RoundRecord, RunFolder
from runs.spent import last_epsilon
from tasks.label_scores import LabelScore
from tasks.measures import ACCURACY, LOSS, Measure
from tasks.registry import find_task
from tasks.task import Task

LABELS_SHOWN = 20  # above this, those with the lowest F1
CONFUSION_SHOWN = 12  # labels; a larger table would not fit on a page
ANSWERS_SHOWN = 6  # without being asked for


@dataclass(frozen=True, kw_only=True)
class SpendingRow:
    """A row of the ε table: one site, or the minimum, median or maximum of many.

    ``epsilon`` is None for a site whose ε has no bound.
    """

    name: str
    epsilon: float | None
    budget: float
    examples: float | None

    @property
    def share(self) -> float:
        """How much of the budget is spent, from 0 to 1."""
        return 1.0 if self.epsilon is None else min(1.0, self.epsilon / self.budget)


@timed(Part.REPORT)
def write_report(folder: RunFolder) -> Path:
    """Write ``report.html`` into a run's folder, whatever it has finished, and return its path."""
    path = folder.path / "report.html"
    write_durably(path, render_report(folder).encode(), mode=BY_UMASK)
    return path


def render_report(folder: RunFolder) -> str:
    """A run's report as HTML; the same folder gives the same bytes.

    Whatever names a folder holds, the page has no character that a reader could not see.
    """
    manifest, records, facts = folder.manifest, folder.records(), folder.facts
    job, spent = manifest.job, last_epsilon(records, folder.metrics)
    compared = read_comparison(folder)
    page_text = page_template("runs.report", "report.html.j2").render(
        run=manifest.run,
        job=job,
        job_toml=job_toml(job),
        records=records,
        cohort=manifest.cohort,
        absences=any(len(record.present) < manifest.cohort for record in records),
        facts=facts,
        result=result_sentence(job, records, facts, spent),
        notices=find_notices(
            manifest,
            records,
            federation=facts.get("federation"),
            oddities=facts.get("oddities", ()),
            remarks=facts.get("remarks", ()),
            average=read_average(folder),
        ),
        by_label=list_labels(records),
        counted_by_label="Examples" if find_task(job.task).labelled else "Pixels or voxels",
        confusion=confusion(records),
        federation=facts.get("federation"),
        spending=list_spending(job, spent, facts),
        metrics=metrics_sentence(job, folder.metrics, records),
        traffic=traffic_sentence(records, facts),
        measures=_measured(job, records),
        shown=_shown(job, records),
        uncertainty=accuracy_interval(job, records, facts),
        assessed=assessed_section(read_assessment(folder)),
        sites_shown=charts.SITES_SHOWN,
        factor=_factor(job.privacy.epsilon),
        charts=draw_charts(job, records, facts, compared),
        compared=compared,
        answers=read_answers(folder),
        answers_shown=ANSWERS_SHOWN,
    )
    return escaped(page_text, lines=True)


def result_sentence(
    job: Job, records: Sequence[RoundRecord], facts: Mapping[str, Any], spent: Mapping[str, float | None]
) -> str:
    """What came out, in one sentence; ``spent`` is each site's ε."""
    if not records:
        return "No round has finished yet, so there is nothing to report but what was asked for."
    last = records[-1]
    trained = f"{format_count(len(spent), 'site')} trained for {format_count(len(records), 'round')}"
    if job.federation.cohort is not None:
        trained += f", {len(last.epsilon)} in each"
    told = {
        measure.name: f"{measure.title} {format_measure(last.measures, measure)}"
        for measure in _measured(job, records)
        if measure is not LOSS  # nats tell few people anything
    }
    majority = facts.get("majority")
    if majority is not None:
        side = "over" if last.measures["accuracy"] >= majority else "under"
        apart = format_points(last.measures["accuracy"] - majority)
        told["accuracy"] += f", {apart} {side} always answering the most frequent label"
    return f"{trained}; held-out {', '.join(told.values())}; {_spent(job, spent)}."


def metrics_sentence(job: Job, metrics: Metrics | None, records: Sequence[RoundRecord]) -> str | None:
    """What the sites told of their own examples; None if the job asks for nothing."""
    if metrics is None:
        if not job.metrics.epsilon > 0:
            return None
        if len(records) < job.training.rounds:
            return "The job asks for the accuracy on the sites’ own examples, after the last round."
        return (
            "The job asked for the accuracy on the sites’ own examples, and it is not known: run.log says "
            "why. A site that had answered before was charged for it, and for steps of its own if the job "
            "has any, and did not answer again."
        )
    shares = [site.mean for site in metrics.sites.values()]  # none under masks
    apart = (
        f", {format_percent(min(shares))} to {format_percent(max(shares))} by site" if shares[1:] else ""
    )
    measured = _share_of_answers(find_task(job.task))
    return (
        f"On the sites’ own {metrics.examples:,} examples, which they trained on, the last adapter’s "
        f"{measured} is {format_percent(metrics.mean)}{apart}. Each site counted once, under Laplace noise "
        f"for ε = {format_epsilon(metrics.epsilon)}, which moves the whole by about "
        f"±{format_points(metrics.deviation)} (one standard deviation)."
        f"{_personal_sentence(metrics, job)}"
    )


def _personal_sentence(metrics: Metrics, job: Job) -> str:
    """What the adapters do that sites made for themselves, on the same examples; empty without any."""
    if metrics.personal is None:
        return ""
    steps = format_count(job.training.personal_steps, "step")
    return (
        f" With the adapters that sites made of it for themselves, in {steps} of their own, it is "
        f"{format_percent(metrics.personal.mean)}; both counts together have that ε, and these steps count "
        "within the run’s."
    )


def traffic_sentence(records: Sequence[RoundRecord], facts: Mapping[str, Any]) -> str | None:
    """What the sites sent, against the same updates as plain float32; None if there are none."""
    trained, whole = facts.get("trained_parameters"), facts.get("adapter_parameters")
    updates = sum(len(record.present) for record in records)
    if not trained or not updates:
        return None
    sent = sum(record.bytes_up for record in records)
    text = (
        f"The sites sent {format_bytes(sent)} in all for {format_count(updates, 'update')}: "
        f"{_ratio(sent, 4 * updates * trained)} that these take as plain float32 numbers"
    )
    if whole and whole > trained and facts.get("pairs", True):
        text += (
            f", and {_ratio(sent, 4 * updates * whole)} that they would take if LoRA’s A, which is frozen, "
            "were trained and sent as well"
        )
    return f"{text}."


def list_spending(
    job: Job, spent: Mapping[str, float | None], facts: Mapping[str, Any]
) -> list[SpendingRow]:
    """The ε table: every site, or minimum, median and maximum above twelve sites.

    Empty without privacy or before the first round. A site without a bound counts as the maximum.
    """
    if not spent or not job.privacy.protects:
        return []
    budget = job.privacy.epsilon
    examples = dict(facts.get("examples_by_site", {}))
    if len(spent) <= charts.SITES_SHOWN:
        return [
            SpendingRow(name=name, epsilon=value, budget=budget, examples=examples.get(name))
            for name, value in spent.items()
        ]
    values = [math.inf if value is None else value for value in spent.values()]
    counts = [examples[name] for name in spent if name in examples]
    rows: dict[str, Callable[[Iterable[float]], float]] = {
        "minimum": min,
        "median": statistics.median,
        "maximum": max,
    }
    found = {name: float(reduce(values)) for name, reduce in rows.items()}
    return [
        SpendingRow(
            name=name,
            epsilon=found[name] if math.isfinite(found[name]) else None,
            budget=budget,
            examples=reduce(counts) if counts else None,
        )
        for name, reduce in rows.items()
    ]


def list_labels(records: Sequence[RoundRecord]) -> dict[str, LabelScore]:
    """Scores of the last round by label, as the job orders them; the lowest F1 first if they are many."""
    scores = records[-1].by_label if records else {}
    if len(scores) <= LABELS_SHOWN:
        return scores
    worst = sorted(scores, key=lambda label: (scores[label].f1, label))[:LABELS_SHOWN]
    return {label: scores[label] for label in worst}


def confusion(records: Sequence[RoundRecord]) -> dict[str, list[int]]:
    """How often each label's examples were given each label, in the labels' order, after the last round.

    Empty for many labels, and for a task whose examples may have several.
    """
    scores = records[-1].by_label if records else {}
    if len(scores) > CONFUSION_SHOWN or not any(score.mistakes for score in scores.values()):
        return {}
    return {
        label: [score.hits if other == label else score.mistakes.get(other, 0) for other in scores]
        for label, score in scores.items()
    }


def draw_charts(
    job: Job,
    records: Sequence[RoundRecord],
    facts: Mapping[str, Any],
    compared: Comparison | None,
) -> dict[str, str]:
    """Inline SVG by name; a chart with nothing to show is not there."""
    if not records:
        return {}
    majority = facts.get("majority")
    drawn = {
        measure.name: charts.measure_chart(
            records, measure, majority=majority if measure is ACCURACY else None
        )
        for measure in _shown(job, records)
    } | {
        "bytes": charts.bytes_chart(records),
        "seconds": charts.seconds_chart(records),
    }
    if job.privacy.protects:
        drawn["epsilon"] = charts.epsilon_chart(records, budget=job.privacy.epsilon)
    if compared is not None:
        drawn["comparison"] = charts.comparison_chart(compared.rows, compared.measure)
    return drawn


def _measured(job: Job, records: Sequence[RoundRecord]) -> list[Measure]:
    """The task's measures; of rounds of an older version, those that it knew."""
    return [
        measure
        for measure in find_task(job.task).measures
        if all(measure.name in record.measures for record in records)
    ]


def _shown(job: Job, records: Sequence[RoundRecord]) -> list[Measure]:
    """The measures that have a chart and a column, shares last."""
    return sorted(_measured(job, records), key=lambda measure: measure.share)


def _share_of_answers(task: Task) -> str:
    """What metrics of the sites' own examples add up, in the task's words."""
    share = next((measure for measure in task.measures if measure.share), ACCURACY)
    return share.title if share.by_example else f"{share.title} by {task.units.example}"


def _spent(job: Job, spent: Mapping[str, float | None]) -> str:
    if not job.privacy.protects:
        return "nothing protected the examples"
    values = list(spent.values())
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "the ε of at least one site has no bound"
    low, high = format_epsilon(min(known)), format_epsilon(max(known))
    who = "each site" if len(values) > 1 else "the site"
    if low != high:
        who, high = "the sites", f"{low} to {high}"
    did = "spent" if job.seeds.noise is None else "would have spent"
    given = "" if job.seeds.noise is None else "with fresh noise "
    budget = format_epsilon(job.privacy.epsilon)
    more = f", and at most {format_epsilon(job.metrics.epsilon)} more on metrics" * (
        job.metrics.epsilon > 0
    )
    return f"{given}{who} {did} ε = {high} of {budget} at δ = {format_delta(job.privacy.delta)}{more}"


def _ratio(sent: int, plain: int) -> str:
    """What was sent as a share of so many bytes, or as a multiple of them: 21.1 % of the 117 kB."""
    if sent < 10 * plain:
        return f"{format_percent(sent / plain)} of the {format_bytes(plain)}"
    return f"{sent / plain:,.0f} times the {format_bytes(plain)}"


def _factor(epsilon: float) -> str:
    """e^ε, the bound on how much likelier an outcome becomes."""
    if epsilon > math.log(1e6):
        return "more than a million"
    return f"{math.exp(epsilon):.1f}" if epsilon < math.log(10) else f"{math.exp(epsilon):,.0f}"
