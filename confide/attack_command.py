"""``confide audit empirical``, ``sites``, ``attack`` and ``inversion``, and the page that joins them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from confide.console import printable
from confide.shared_options import Json, Settings

if TYPE_CHECKING:
    from protocol.job.job import Job as ReadJob
    from runs.progress import Progress
    from simulation.attack.empirical_audit import EmpiricalAudit
    from simulation.attack.finding import Finding
    from simulation.attack.inversion import Inversion
    from simulation.attack.membership_attack import MembershipAttack
    from simulation.attack.site_attack import SiteAudit

Job = Annotated[Path, typer.Argument(metavar="JOB", help="A job file.")]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="AUDIT.HTML", help="Write a page that says all of it in words."),
]

Found = TypeVar("Found", bound="Finding")


class Targets(StrEnum):
    """What is attacked: the sites' own examples, or some that are made up in their places."""

    own = "own"
    labels = "labels"
    text = "text"


def empirical(
    job: Job,
    canaries: Annotated[
        int, typer.Option(metavar="N", min=8, max=1_000_000, help="Made-up examples to look for.")
    ] = 1000,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Repeat where canaries stand, and which are in."),
    ] = None,
    settings: Settings = None,
    report: Report = None,
    freeze: Annotated[
        list[Path] | None,
        typer.Option(
            "--freeze", metavar="HOME", help="A site whose ledger is to be frozen if refuted; repeatable."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run a job once with canaries among a simulated site's examples, and attack what is released.

    Prints a lower bound on ε beside the ledger's upper one. Exit code 1, with the attack that shows it, if
    the lower one is above.
    """
    from confide.empirical_view import print_empirical
    from confide.freezing_ledgers import check_and_freeze, homes_to_freeze

    def work(read: ReadJob, progress: Progress) -> EmpiricalAudit:
        from simulation.attack.empirical_audit import audit_empirically

        return audit_empirically(read, canaries=canaries, seed=seed, progress=progress)

    homes = homes_to_freeze(freeze or ())
    check_and_freeze(_attacked(job, work, print_empirical, settings, report=report, json=json), homes)


def sites(
    job: Job,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Repeat who sends what.")
    ] = None,
    settings: Settings = None,
    report: Report = None,
    json: Json = False,
) -> None:
    """Run a job that hides whole sites once, with sites that send random directions, and attack the sums.

    Prints a lower bound on ε beside the plan's upper one. Exit code 1 if the lower one is above.
    """
    from confide.attack_view import print_sites

    def work(read: ReadJob, progress: Progress) -> SiteAudit:
        from simulation.attack.site_attack import audit_sites

        return audit_sites(read, seed=seed, progress=progress)

    _attacked(job, work, print_sites, settings, report=report, json=json).check()


def attack(
    job: Job,
    kind: Annotated[
        Targets,
        typer.Option("--kind", help="Attack the sites' own examples, mislabelled ones, or random text."),
    ] = Targets.own,
    targets: Annotated[
        int | None,
        typer.Option("--targets", metavar="N", min=40, help="How many examples; all, or 1000 made up."),
    ] = None,
    shadows: Annotated[
        int,
        typer.Option("--shadows", metavar="N", min=4, max=1024, help="Adapters that it trains."),
    ] = 16,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="Repeat which examples are attacked and are in."),
    ] = None,
    settings: Settings = None,
    report: Report = None,
    json: Json = False,
) -> None:
    """Tell from what a run released which examples it was trained on, and say what that proves.

    Exit code 1 if it proves more than the claimed ε.
    """
    from confide.attack_view import print_attack

    def work(read: ReadJob, progress: Progress) -> MembershipAttack:
        from simulation.attack.membership_attack import attack_membership

        return attack_membership(
            read, kind=kind.value, targets=targets, shadows=shadows, seed=seed, progress=progress
        )

    _attacked(job, work, print_attack, settings, report=report, json=json).check()


def inversion(
    job: Job,
    texts: Annotated[
        int, typer.Option("--texts", metavar="N", min=1, max=100, help="How many texts to recover.")
    ] = 4,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            "--batch", metavar="N", min=1, help="Texts in a step; repeatable. Default: one, and the job's."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Repeat which texts are attacked.")
    ] = None,
    settings: Settings = None,
    report: Report = None,
    json: Json = False,
) -> None:
    """Recover tokens from a site's update, from a sum under masks, and from that sum with noise."""
    from confide.attack_view import print_inversion

    def work(read: ReadJob, progress: Progress) -> Inversion:
        from simulation.attack.inversion import attack_inversion

        return attack_inversion(read, texts=texts, batches=batch or (), seed=seed, progress=progress)

    _attacked(job, work, print_inversion, settings, report=report, json=json)


def report(
    found: Annotated[
        list[Path],
        typer.Argument(metavar="FOUND.JSON...", help="What attacks wrote with --report or --json."),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="AUDIT.HTML", help="The page to write.")],
) -> None:
    """Join what several attacks on one job found in one page, for whoever answers for privacy.

    Exit code 1 if one of them refutes what is claimed.
    """
    from simulation.attack.finding import Claim
    from simulation.attack.page.audit_report import join_reports

    findings = join_reports(found, to)
    print(printable(f"Wrote {to}"))
    for finding in findings:
        if isinstance(finding, Claim):
            finding.check()


def _attacked(
    job: Path,
    work: Callable[[ReadJob, Progress], Found],
    show: Callable[[Found], None],
    settings: list[str] | None,
    *,
    report: Path | None,
    json: bool,
) -> Found:
    """Read a job, attack it, and tell what was found: on the terminal or as JSON, and as a page."""
    from confide.attack_view import print_cost
    from confide.console import print_json
    from confide.interruption import interruptible
    from confide.terminal import Display, choose_display
    from tasks.registry import read_job

    with (
        interruptible(lambda: "nothing was kept"),
        Display() if json else choose_display(json=False) as display,
    ):
        from simulation.attack.evidence import evidence_table
        from simulation.attack.page.audit_report import check_place, write_audit_report

        if report is not None:
            check_place(report)
        found = work(read_job(job, settings=settings or ()), display)
    if report is not None:
        write_audit_report(found, report)
    if json:
        print_json(evidence_table(found))
    else:
        show(found)
        print_cost(found.provenance)
        if report is not None:
            print(printable(f"Wrote {report}, and its twin for machines beside it"))
    return found
