"""The report: one page that says what a run did, what it cost, and what privacy it gave.

It is self-contained: no script, nothing fetched. The text that people have to trust, the result and
the notices, is made here; ``report.html.j2`` only lays it out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from privacy.errors import RunError
from protocol.job import Job
from server import charts
from server.charts import Measure, format_measure
from server.run_folder import RoundRecord, RunFolder, job_toml, write_durably

_SITES_LISTED = 12
_COMPARED = {"without-privacy": "Without privacy", "one-site": "One site alone"}
_THIS_RUN = "This run"


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that a reader must not miss; ``grave`` if it takes a promise back."""

    title: str
    text: str
    grave: bool = True


@dataclass(frozen=True, kw_only=True)
class Spending:
    """A row of the ε table: one site, or one of minimum, median and maximum over many.

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


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run of the comparison: this one or one beside it."""

    title: str
    job: Job
    records: tuple[RoundRecord, ...]

    @property
    def last(self) -> RoundRecord:
        return self.records[-1]


def write_report(folder: RunFolder) -> Path:
    """Write ``report.html`` into a run's folder, whatever it has finished, and return its path."""
    path = folder.path / "report.html"
    write_durably(path, render_report(folder).encode())
    return path


def render_report(folder: RunFolder) -> str:
    """A run's report as HTML; the same folder gives the same bytes."""
    from jinja2 import Environment, StrictUndefined

    manifest, records, facts = folder.manifest, folder.records(), folder.facts
    job = manifest.job
    compared = read_comparison(folder) if records else ()
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {
        "bytes": format_bytes,
        "seconds": format_seconds,
        "epsilon": format_epsilon,
        "percent": format_percent,
        "measure": format_measure,
        "delta": format_delta,
    }
    template = page.from_string(files("server").joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        run=manifest.run,
        job=job,
        job_toml=job_toml(job),
        records=records,
        facts=facts,
        result=result_sentence(job, records, facts),
        notices=find_notices(job, records),
        spending=list_spending(job, records, facts),
        quality=_quality(job),
        uncertainty=_uncertainty(job, records, facts),
        factor=_factor(job.privacy.epsilon),
        charts=_draw_charts(job, records, facts, compared),
        compared=compared,
        findings=compare(compared) if compared else (),
    )


def result_sentence(job: Job, records: Sequence[RoundRecord], facts: Mapping[str, Any]) -> str:
    """What came out, in one sentence."""
    if not records:
        return "No round has finished yet, so there is nothing to report but what was asked for."
    last = records[-1]
    trained = f"{_count(len(last.epsilon), 'site')} trained for {_count(len(records), 'round')}"
    if job.task == "causal-lm":
        reached = (
            f"held-out perplexity {format_measure(last, 'perplexity')}, "
            f"next-token accuracy {format_percent(last.accuracy)}"
        )
    else:
        reached = f"held-out accuracy {format_percent(last.accuracy)}"
        majority = facts.get("majority")
        if majority is not None:
            side = "over" if last.accuracy >= majority else "under"
            reached += (
                f", {_points(last.accuracy - majority)} {side} always answering the most frequent label"
            )
    return f"{trained}; {reached}; {_spent(job, last)}."


def find_notices(job: Job, records: Sequence[RoundRecord]) -> list[Notice]:
    """What a reader must know before believing anything else on the page, gravest first."""
    notices = []
    protected = job.privacy.mechanism != "none"
    asked, done = job.training.rounds, len(records)
    spent = list(records[-1].epsilon.values()) if records else []
    if not protected:
        text = (
            'The job asked for privacy.mechanism = "none": no noise was added, so nothing bounds '
            "what the adapter and the updates tell about the examples."
        )
        notices.append(Notice(title="No privacy", text=text))
    if job.seeds.noise is not None:
        text = (
            f"The job fixes its noise (seeds.noise = {job.seeds.noise}). The run can be "
            "reproduced, and therefore it is not private"
        )
        text += (
            ": whoever knows the seed can take the noise away again. Every ε on this page is what "
            "fresh noise would have cost."
            if protected
            else "."
        )
        notices.append(Notice(title="Reproducible, therefore not private", text=text))
    if protected and any(e is None or e > job.privacy.epsilon * (1 + 1e-9) for e in spent):
        text = f"At least one site’s ε is above the budget of {job.privacy.epsilon:g} or unbounded."
        notices.append(Notice(title="Budget exceeded", text=text))
    if done < asked:
        text = (
            f"{done} of the {_count(asked, 'round')} that the job asked for "
            f"{'is' if done == 1 else 'are'} finished: the run ended early or still goes on, and "
            "its run.log says which. The job was planned for all of them."
        )
        notices.append(Notice(title="Unfinished", text=text))
    text = (
        "All sites are simulated on one machine, which holds everyone’s data. Updates are not "
        f"masked by secure aggregation: the coordinator sees each site’s {'noisy ' * protected}"
        "update."
    )
    if protected:
        text += (
            " ε is accounted at each site on its own, for one example added or removed, and takes "
            "the number of examples at a site as public."
        )
    notices.append(Notice(title="A simulation", text=text, grave=False))
    return notices


def list_spending(job: Job, records: Sequence[RoundRecord], facts: Mapping[str, Any]) -> list[Spending]:
    """The ε table: every site, or minimum, median and maximum above twelve sites.

    Empty without privacy or before the first round. A site without a bound counts as the maximum.
    """
    if not records or job.privacy.mechanism == "none":
        return []
    budget, spent = job.privacy.epsilon, records[-1].epsilon
    examples = dict(facts.get("examples_by_site", {}))
    if len(spent) <= _SITES_LISTED:
        return [
            Spending(name=name, epsilon=value, budget=budget, examples=examples.get(name))
            for name, value in spent.items()
        ]
    values = [math.inf if value is None else value for value in spent.values()]
    counts = [examples[name] for name in spent if name in examples]
    rows = {"minimum": min, "median": statistics.median, "maximum": max}
    found = {name: float(reduce(values)) for name, reduce in rows.items()}
    return [
        Spending(
            name=name,
            epsilon=found[name] if math.isfinite(found[name]) else None,
            budget=budget,
            examples=reduce(counts) if counts else None,
        )
        for name, reduce in rows.items()
    ]


def read_comparison(folder: RunFolder) -> tuple[Compared, ...]:
    """This run and those under ``compare/`` that finished a round; empty if there is none."""
    found = []
    for name, title in _COMPARED.items():
        path = folder.path / "compare" / name
        try:
            other = RunFolder.open(path)
        except RunError:
            continue
        if records := other.records():
            found.append(Compared(title=title, job=other.manifest.job, records=tuple(records)))
    if not found:
        return ()
    this = Compared(title=_THIS_RUN, job=folder.manifest.job, records=tuple(folder.records()))
    return (this, *found)


def compare(compared: Sequence[Compared]) -> list[str]:
    """What privacy costs and what federation gains, a sentence each."""
    by_title = {run.title: run for run in compared}
    this = by_title[_THIS_RUN]
    name = _quality(this.job)
    now = format_measure(this.last, name)
    sentences = []
    free = by_title.get(_COMPARED["without-privacy"])
    if free is not None and this.job.privacy.mechanism != "none":
        lost, then = _gap(free.last, this.last, name), format_measure(free.last, name)
        sentences.append(f"Privacy costs {lost}: {name} is {now} with it and {then} without.")
    alone = by_title.get(_COMPARED["one-site"])
    if alone is not None:
        gained, then = _gap(this.last, alone.last, name), format_measure(alone.last, name)
        sentences.append(
            f"Federation gains {gained}: {name} is {now} together and {then} at one site alone."
        )
    return sentences


def format_epsilon(value: float | None) -> str:
    """ε to two decimals, or two digits below 0.1, rounded up: it is an upper bound."""
    if value is None:
        return "unbounded"
    decimals = 2 if value >= 0.1 or value <= 0 else 1 - math.floor(math.log10(value))
    # The slack keeps 3.00 from becoming 3.01 by the last bit of a float.
    return f"{math.ceil(value * 10**decimals - 1e-6) / 10**decimals:.{decimals}f}"


def format_percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def format_bytes(count: float) -> str:
    """A number of bytes in decimal units: 12.3 KB."""
    size, unit = charts.byte_unit(count)
    value = count / size
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """A duration: 4.2 s, 1 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _draw_charts(
    job: Job,
    records: Sequence[RoundRecord],
    facts: Mapping[str, Any],
    compared: Sequence[Compared],
) -> dict[str, str]:
    """Inline SVG by name; a chart with nothing to show is not there."""
    if not records:
        return {}
    language = job.task == "causal-lm"
    drawn = {
        "loss": charts.measure_chart(records, "perplexity" if language else "loss"),
        "accuracy": charts.measure_chart(records, "accuracy", majority=facts.get("majority")),
        "bytes": charts.bytes_chart(records),
        "seconds": charts.seconds_chart(records),
    }
    if job.privacy.mechanism != "none":
        drawn["epsilon"] = charts.epsilon_chart(records, budget=job.privacy.epsilon)
    if compared:
        curves = {run.title: run.records for run in compared}
        drawn["comparison"] = charts.comparison_chart(curves, _quality(job))
    return drawn


def _quality(job: Job) -> Measure:
    """The measure that a task is judged by."""
    return "perplexity" if job.task == "causal-lm" else "accuracy"


def _spent(job: Job, last: RoundRecord) -> str:
    if job.privacy.mechanism == "none":
        return "nothing protected the examples"
    values = list(last.epsilon.values())
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
    return f"{given}{who} {did} ε = {high} of {budget} at δ = {format_delta(job)}"


def format_delta(job: Job) -> str:
    """δ as people write it: 1e-5."""
    return f"{job.privacy.delta:g}".replace("e-0", "e-")


def _factor(epsilon: float) -> str:
    """e^ε, the bound on how much likelier an outcome becomes."""
    if epsilon > math.log(1e6):
        return "more than a million"
    return f"{math.exp(epsilon):.1f}" if epsilon < math.log(10) else f"{math.exp(epsilon):,.0f}"


def _uncertainty(job: Job, records: Sequence[RoundRecord], facts: Mapping[str, Any]) -> float | None:
    """Half the 95 % interval of the accuracy, in points; None if predictions aren't independent.

    Agresti and Coull 1998: two successes and two failures more than were seen.
    """
    counted = facts.get("held_out_examples")
    if job.task == "causal-lm" or not records or not counted:
        return None
    share = (records[-1].accuracy * counted + 2) / (counted + 4)
    return 196 * math.sqrt(share * (1 - share) / (counted + 4))


def _gap(better: RoundRecord, worse: RoundRecord, name: Measure) -> str:
    """By how much one is better than the other, or that it is not."""
    gap = charts.measure(better, name) - charts.measure(worse, name)
    if name == "perplexity":
        return f"{-gap:.3g} of perplexity" if gap < 0 else "nothing here"
    return f"{_points(gap)} of accuracy" if gap > 0 else "nothing here"


def _points(difference: float) -> str:
    points = abs(100 * difference)
    return f"{points:.1f} points" if points < 9.95 else f"{points:.0f} points"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
