"""The report's notices: what a reader must know before believing anything else in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.sums.sum_kinds import sum_kind
from runs.averaged_adapter import AveragedAdapter
from runs.best_round import best_round, has_stopped
from runs.formats import format_count
from runs.run_folder import RoundRecord
from runs.spent import last_epsilon
from tasks.label_scores import what_scores_hide
from tasks.registry import find_task
from tasks.task import SummingTask


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that a reader must not miss; ``grave`` if it takes a promise back."""

    title: str
    text: str
    grave: bool = True


def find_notices(
    manifest: Manifest,
    records: Sequence[RoundRecord],
    *,
    federation: str | None = None,
    oddities: Sequence[str] = (),
    remarks: Sequence[str] = (),
    average: AveragedAdapter | None = None,
) -> list[Notice]:
    """The notices that a run calls for, gravest first.

    ``federation`` is a real one's name. ``oddities`` are sentences about the data, ``remarks`` say how the
    base model was made whole, and ``average`` is what was kept beside the last adapter.
    """
    notices = []
    job = manifest.job
    protected = job.privacy.protects
    asked, done = job.training.rounds, len(records)
    spent = list(last_epsilon(records).values())
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
    notices += _of_adapters(job, records, average)
    if has_stopped(job, records) and done < asked:
        text = (
            f"The run stopped after {done} of {format_count(asked, 'round')}, as training.patience = "
            f"{job.training.patience} asks: the held-out loss fell no more. ε is of the rounds that were "
            "trained; noise was planned for all, and sites count them until they close the run."
        )
        notices.append(Notice(title="Stopped early", text=text, grave=False))
    elif done < asked:
        text = (
            f"{done} of the {format_count(asked, 'round')} that the job asked for "
            f"{'is' if done == 1 else 'are'} finished: the run ended early or still goes on, and "
            "its run.log says which. The job was planned for all of them."
        )
        notices.append(Notice(title="Unfinished", text=text))
    if protected and job.privacy.hides_sites and job.privacy.noise == "central":
        read = "every sum" if job.aggregation.hidden else "every update"
        text = (
            'privacy.noise = "central": the coordinator itself adds the noise that hides a site, and so '
            f"must be trusted with {read} before that. ε holds against everyone else."
        )
        notices.append(Notice(title="The coordinator adds the noise", text=text, grave=False))
    notices += _of_the_first(manifest)
    if remarks:
        notices.append(Notice(title="The base model", text=" ".join(remarks), grave=False))
    hidden = what_scores_hide(records[-1].by_label) if records else []
    if hidden:
        notices.append(Notice(title="What accuracy hides", text=_sentence(hidden), grave=False))
    if oddities:
        notices.append(Notice(title="The data", text=_sentence(oddities), grave=False))
    said = [] if federation else ["All sites are simulated on one machine, which holds everyone’s data."]
    said.append(sum_kind(job).notice(manifest))
    if protected:
        said.append(_what_epsilon_counts(manifest))
    title = "What the coordinator sees" if federation else "A simulation"
    notices.append(Notice(title=title, text=" ".join(said), grave=False))
    return notices


def _of_adapters(job: Job, records: Sequence[RoundRecord], average: AveragedAdapter | None) -> list[Notice]:
    """What else there is beside the last adapter."""
    notices, best, done = list[Notice](), best_round(records), len(records)
    if best is not None and best.round < done and not isinstance(find_task(job.task), SummingTask):
        text = (
            f"Round {best.round} has the lowest held-out loss, {best.loss:.4f}; after the last, {done}, it "
            f"is {records[-1].loss:.4f}. confide export --best writes that round’s adapter."
        )
        notices.append(Notice(title="The best round is not the last", text=text, grave=False))
    if average is not None:
        text = (
            f"{average.words} has a held-out loss of {average.loss:.4f}; the last adapter alone has "
            f"{records[-1].loss:.4f}. confide export --average writes it. It cost nothing: all that is in "
            "it had been released."
        )
        notices.append(Notice(title="Beside the last adapter", text=text, grave=False))
    return notices


def _of_the_first(manifest: Manifest) -> list[Notice]:
    """Where the run began, if not anew."""
    place = manifest.job.training.warm_start
    if place is None:
        return []
    text = (
        f"The first round began with the adapter in {place} (SHA-256 {manifest.start_digest[:16]}…). ε "
        "counts nothing that it was trained on: that costs nothing only if those examples are public, or "
        "are charged where it was trained."
    )
    return [Notice(title="The first adapter", text=text, grave=False)]


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _what_epsilon_counts(manifest: Manifest) -> str:
    job = manifest.job
    if job.privacy.of_groups:
        return (
            "ε is accounted at each site on its own, for one group being there or blank, with all of its "
            f"rows: at most {job.data.rows_per_group} of each count. The number of groups at a site is "
            "public."
        )
    if not job.privacy.hides_sites:
        return (
            "ε is accounted at each site on its own, for one example being there or blank, and takes "
            "the number of examples at a site as public."
        )
    text = "ε is for all of a site’s examples together: its update being in the sums or blank."
    if job.privacy.noise == "distributed":
        most = job.aggregation.colluding
        who = "no site tells" if most == 0 else f"at most {format_count(most, 'site tells', 'sites tell')}"
        text += f" The sites add the noise in shares, enough of them while {who} the coordinator its own."
    return text
