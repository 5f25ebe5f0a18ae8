"""Options that several commands have, in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the job, as training.rounds=2."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line and nothing else.")]
RunName = Annotated[str | None, typer.Option(help="The new run's name.")]
Policy = Annotated[
    Path | None,
    typer.Option(metavar="SITE.TOML", help="The policy of each simulated site, as its custodian's."),
]
Homes = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where sites keep their homes, and so their ledgers, over runs."),
]
