"""The command line: what people type. Work happens elsewhere; heavy imports wait for it."""

from __future__ import annotations

import os
import sys
import warnings
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from confide.audit_commands import app as audit_app
from confide.console import printable
from confide.provision_command import provision
from confide.run_command import run
from confide.server_commands import app as server_app
from confide.shared_options import Json, Settings
from confide.simulate_command import simulate
from confide.site_commands import app as site_app
from confide.statistics_command import stats
from privacy.errors import ConfideError, JobError, UserError

app = typer.Typer(
    name="confide",
    help="Fine-tune one model together without showing each other the data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Packing(StrEnum):
    """What an exported model's weights are packed into."""

    int8 = "int8"
    gguf = "gguf-q4"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the job file.")] = Path("job.toml"),
    federation: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a federation of three sites to try here instead."),
    ] = None,
) -> None:
    """Write a commented job file to start from, or a federation to try."""
    if federation is not None:
        from confide.federation_sample import write_federation_sample

        write_federation_sample(federation)
        print(f"Wrote a federation of three sites to {federation}. Then, there: confide provision")
        return
    if path.exists():
        raise JobError(f"{path} exists already: name another file")
    path.write_text(files("confide").joinpath("job_template.toml").read_text("utf-8"), "utf-8")
    print(f"Wrote {path}. Edit it, then: confide simulate {path}")


app.command()(simulate)


@app.command()
def plan(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="A job file.")],
    settings: Settings = None,
    force: Annotated[
        bool, typer.Option("--force", help="Do not refuse a job that noise is likely to swamp.")
    ] = False,
    json: Json = False,
    site: Annotated[
        list[Path] | None,
        typer.Option(metavar="HOME", help="A site's home: show what its ledger has left; repeatable."),
    ] = None,
) -> None:
    """Say what a job costs and whether it can learn, before anything is spent."""
    from protocol.job.stages_file import is_stages_file

    if is_stages_file(job):
        from confide.stages_view import plan_and_print

        plan_and_print(job, settings=settings or (), json=json, homes=site)
        return
    from rich.console import Console

    console = Console(quiet=json, emoji=False)
    with console.status("Reading the data, loading the base model and planning"):
        from client.budgets import read_budgets
        from confide.plan_view import print_forecast, print_json
        from simulation.forecast.forecast import forecast
        from tasks.registry import read_job

        parsed = read_job(job, settings=settings or ())
        found = forecast(parsed, budgets=read_budgets(site, parsed) if site else None)
    if json:
        print_json(found)
    else:
        print_forecast(found, console)
    if not force:
        found.refuse_if_hopeless()


@app.command()
def tasks(json: Json = False) -> None:
    """List the tasks that a job can name here."""
    from confide.tasks_view import print_tasks

    print_tasks(json=json)


@app.command()
def strategies(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON list and nothing else.")] = False,
) -> None:
    """List the strategies that a job can name here."""
    from confide.strategies_view import print_strategies

    print_strategies(json=json)


@app.command()
def report(run: RunArgument) -> None:
    """Write a run's report.html anew."""
    from runs.report.report import write_report
    from runs.run_folder import RunFolder

    print(write_report(RunFolder.open(run)))


@app.command()
def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the whole model with the adapter folded in.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="The round with the lowest held-out loss, not the last.")
    ] = False,
    average: Annotated[
        bool, typer.Option("--average", help="What training.average or shrink has kept beside the last.")
    ] = False,
    site: Annotated[
        str | None,
        typer.Option("--site", metavar="NAME", help="A simulated site's own, with what stays at it."),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", metavar="AUDIT.JSON", help="An audit's twin, for the privacy card."),
    ] = None,
    quantize: Annotated[
        Packing | None,
        typer.Option("--quantize", help="Write the whole model in fewer bits, and what that costs."),
    ] = None,
) -> None:
    """Write a run's adapter for PEFT, or a merged model for transformers, and what it promises."""
    from runs.export import export_adapter, export_merged
    from runs.privacy_card import read_audit
    from runs.run_folder import RunFolder

    folder = RunFolder.open(run)
    own = folder.has_own_program
    result = None if audit is None else read_audit(audit, folder.manifest)
    if best and average:
        raise UserError("--average: expected no --best beside it: one adapter is written")
    if site is not None:
        if merge or best or average or quantize is not None or audit is not None:
            raise UserError(
                "--site: expected no --merge, --best, --average, --quantize or --audit: a site keeps its "
                "last adapter"
            )
        from confide.kept_adapter import export_own
        from protocol.plain_text import quoted_some
        from simulation.booked_homes import memory_in

        manifest = folder.manifest
        known = {name for record in folder.records() for name in record.epsilon}
        if known and site not in known:
            raise UserError(
                f"--site: expected a site that trained in the run, such as {quoted_some(sorted(known))}, "
                f"got {site!r}"
            )
        memory = memory_in(folder.path / "sites", site, manifest)
        export_own(manifest, memory, to, files=folder.model_files)
    elif quantize is not None:
        from confide.quantized_view import export_and_print

        export_and_print(folder, to, kind=quantize.value, best=best, average=average, audit=result)
    elif merge:
        export_merged(folder, to, best=best, average=average, audit=result)
        loader = "the load() of its network.py" if own else "transformers' from_pretrained"
        print(f"Wrote a model to {to}; load it with {loader}")
    else:
        export_adapter(folder, to, best=best, average=average, audit=result)
        how = "--merge writes what loads them" if own else "load it with peft.PeftModel.from_pretrained"
        print(f"Wrote {'the trained numbers' if own else 'an adapter'} to {to}; {how}")


@app.command()
def budget(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's home, or a simulation's sites.")],
    job: Annotated[
        Path | None, typer.Option("--job", metavar="JOB", help="A job file: what would it cost here?")
    ] = None,
    settings: Settings = None,
    name: Annotated[
        str | None,
        typer.Option("--site", metavar="NAME", help="Which site alone, where a book.db has many."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what a site's data has left, and what a job would cost it."""
    from client.budgets import read_budgets
    from confide.budget_view import print_budgets, print_budgets_json
    from tasks.registry import read_job

    if job is None and settings:
        raise UserError("--set is for a job: name it with --job")
    asked = None if job is None else read_job(job, settings=settings or ())
    budgets = read_budgets([site], asked, site=name)
    (print_budgets_json if json else print_budgets)(budgets, asked)


app.command()(stats)
app.command()(run)
app.command()(provision)
app.add_typer(audit_app, name="audit")
app.add_typer(server_app, name="server")
app.add_typer(site_app, name="site")


def main() -> None:
    """Run the command line. Exit code 2 for the user's mistakes, 1 for failures, 130 for Ctrl-C."""
    for name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        os.environ.setdefault(name, "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        app()
    except ConfideError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), 1)


def _fail(message: str, code: int) -> None:
    print(f"confide: {printable(message)}", file=sys.stderr)
    raise SystemExit(code)
