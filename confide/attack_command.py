"""``confide audit sites``, ``attack`` and ``inversion``: attacks on what a run of a job releases."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Job = Annotated[Path, typer.Argument(metavar="JOB", help="A job file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the job, as training.rounds=2."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


class Targets(StrEnum):
    """What is attacked: the sites' own examples, or some that are made up in their places."""

    own = "own"
    labels = "labels"
    text = "text"


def sites(
    job: Job,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Repeat who sends what.")
    ] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Run a job that hides whole sites once, with sites that send random directions, and attack the sums.

    Prints a lower bound on ε beside the plan's upper one. Exit code 1 if the lower one is above.
    """
    from confide.attack_view import print_sites, sites_table
    from confide.console import print_json
    from confide.interruption import interruptible
    from confide.terminal import Display, choose_display
    from tasks.registry import read_job

    with (
        interruptible(lambda: "nothing was kept"),
        Display() if json else choose_display(json=False) as display,
    ):
        from simulation.attack.site_attack import audit_sites

        found = audit_sites(read_job(job, settings=settings or ()), seed=seed, progress=display)
    if json:
        print_json(sites_table(found))
    else:
        print_sites(found)
    found.check()


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
    json: Json = False,
) -> None:
    """Tell from what a run released which examples it was trained on, and say what that proves.

    Exit code 1 if it proves more than the claimed ε.
    """
    from confide.attack_view import attack_table, print_attack
    from confide.console import print_json
    from confide.interruption import interruptible
    from confide.terminal import Display, choose_display
    from tasks.registry import read_job

    with (
        interruptible(lambda: "nothing was kept"),
        Display() if json else choose_display(json=False) as display,
    ):
        from simulation.attack.membership_attack import attack_membership

        found = attack_membership(
            read_job(job, settings=settings or ()),
            kind=kind.value,
            targets=targets,
            shadows=shadows,
            seed=seed,
            progress=display,
        )
    if json:
        print_json(attack_table(found))
    else:
        print_attack(found)
    found.check()


def inversion(
    job: Job,
    texts: Annotated[
        int, typer.Option("--texts", metavar="N", min=1, max=100, help="How many texts to recover.")
    ] = 4,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Repeat which texts are attacked.")
    ] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Recover tokens from a site's update, from a sum under masks, and from that sum with noise."""
    from confide.attack_view import inversion_table, print_inversion
    from confide.console import print_json
    from confide.interruption import interruptible
    from confide.terminal import Display, choose_display
    from tasks.registry import read_job

    with (
        interruptible(lambda: "nothing was kept"),
        Display() if json else choose_display(json=False) as display,
    ):
        from simulation.attack.inversion import attack_inversion

        found = attack_inversion(
            read_job(job, settings=settings or ()), texts=texts, seed=seed, progress=display
        )
    if json:
        print_json(inversion_table(found))
    else:
        print_inversion(found)
