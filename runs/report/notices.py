"""The report's notices: what a reader must know before believing anything else in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.job.manifest import Manifest
from runs.formats import format_count
from runs.run_folder import RoundRecord


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that a reader must not miss; ``grave`` if it takes a promise back."""

    title: str
    text: str
    grave: bool = True


def find_notices(
    manifest: Manifest, records: Sequence[RoundRecord], *, federation: str | None = None
) -> list[Notice]:
    """The notices that a run calls for, gravest first; ``federation`` is a real one's name."""
    notices = []
    job = manifest.job
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
            f"{done} of the {format_count(asked, 'round')} that the job asked for "
            f"{'is' if done == 1 else 'are'} finished: the run ended early or still goes on, and "
            "its run.log says which. The job was planned for all of them."
        )
        notices.append(Notice(title="Unfinished", text=text))
    if protected and job.privacy.unit == "site" and job.privacy.noise == "central":
        read = "every update" if job.aggregation.kind == "none" else "every sum"
        text = (
            'privacy.noise = "central": the coordinator itself adds the noise that hides a site, and so '
            f"must be trusted with {read} before that. ε holds against everyone else."
        )
        notices.append(Notice(title="The coordinator adds the noise", text=text, grave=False))
    said = [] if federation else ["All sites are simulated on one machine, which holds everyone’s data."]
    said.append(_who_reads_updates(manifest))
    if protected:
        said.append(_what_epsilon_counts(manifest))
    title = "What the coordinator sees" if federation else "A simulation"
    notices.append(Notice(title=title, text=" ".join(said), grave=False))
    return notices


def _who_reads_updates(manifest: Manifest) -> str:
    """What the run's secure aggregation hides, and from whom."""
    job = manifest.job
    if job.aggregation.kind == "masks":
        return _what_masks_hide(manifest)
    if job.aggregation.kind == "homomorphic":
        return (
            "Updates are encrypted: the coordinator passes on what it cannot read, and a site adds it up "
            "and decrypts the sum. The sites share one key, which no threshold protects: any one of them, "
            "working with the coordinator, could decrypt another’s update."
        )
    noisy = job.privacy.mechanism != "none" and job.privacy.unit == "example"
    return (
        "Updates are not masked by secure aggregation: the coordinator reads each site’s "
        f"{'noisy ' * noisy}update."
    )


def _what_masks_hide(manifest: Manifest) -> str:
    """How many sites could work with the coordinator before it reads a single update.

    With fewer than t of them it cannot uncover masks by itself, and with fewer than 2t − n it cannot by
    telling the others different things (Bonawitz et al. 2017, sections 6.2 and 6.3). Whatever masks do, the
    colluding sites' own updates can be taken off a sum, which must leave two others.
    """
    n, t = manifest.cohort, manifest.threshold
    fewest = max(t, manifest.fewest)
    if fewest < 2:
        return "Updates are masked, which hides nothing here: the sum over one site is that site’s update."
    over = f"all {n} sites" if fewest == n else f"at least {fewest} of {n} sites"
    text = f"Updates are masked: the coordinator reads only sums, each over {over}. "
    text += "It learns no single update "
    honest, other = min(t - 1, fewest - 2), min(2 * t - n - 1, t - 2)
    if manifest.job.aggregation.confirm and other == honest:
        return text + f"{_while_working(honest)}, whether it follows the protocol or not."
    text += f"{_while_working(honest)} and it follows the protocol. "
    if not manifest.job.aggregation.confirm:
        return text + (
            "One that does not could, because the sites do not confirm to each other whose updates are in "
            "a sum: aggregation.confirm = false."
        )
    if other < 0:
        return text + (
            f"One that does not could, because {t} of {n} sites, no more than half, are enough to uncover "
            f"a sum: aggregation.threshold = {t}."
        )
    return text + f"If it does not, that holds {_while_working(other)}."


def _while_working(most: int) -> str:
    if most == 0:
        return "while no site works with it"
    return f"while at most {format_count(most, 'site works', 'sites work')} with it"


def _what_epsilon_counts(manifest: Manifest) -> str:
    job = manifest.job
    if job.privacy.unit == "example":
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
