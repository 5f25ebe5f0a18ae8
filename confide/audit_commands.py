"""``confide audit``: what an auditor asks of ledgers and of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import confide
from confide.attack_command import attack, empirical, inversion, report, sites
from confide.console import printable
from confide.shared_options import Json

app = typer.Typer(
    no_args_is_help=True, help="Check ledgers and receipts against everything, or attack a run of a job."
)


@app.command()
def ledger(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A ledger.db, or the home that it is in.")],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="HEX", help="The site's public key, as you know it from elsewhere."),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option("--site", metavar="NAME", help="Which site, where a book.db has many."),
    ] = None,
    json: Json = False,
) -> None:
    """Verify a ledger's chain and signatures and compute every total anew; of a book.db, all ledgers'.

    Exit code 1, with the first wrong entry, if something does not hold.
    """
    from confide.audit_view import ledger_table, print_ledger
    from confide.console import print_json
    from privacy.ledger.ledger_book import find_book

    if site is None and key is None and find_book(path) is not None:
        _book(path, json=json)
        return
    audit = confide.audit_ledger(path, key=key, site=site)
    if json:
        print_json(ledger_table(audit))
    else:
        print_ledger(audit)


def _book(path: Path, *, json: bool) -> None:
    """Show what a book's ledgers come to. Raises LedgerError naming the first that is broken."""
    from confide.book_view import book_table, print_book
    from confide.console import print_json
    from privacy.errors import LedgerError

    audit = confide.audit_book(path)
    if json:
        print_json(book_table(audit))
    else:
        print_book(audit, path)
    if audit.broken:
        first = audit.broken[0]
        raise LedgerError(
            f"{len(audit.broken)} of {audit.sites} ledgers do not hold; site {first.site}: {first.reason}"
        )


@app.command()
def run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    ledgers: Annotated[
        list[Path] | None,
        typer.Option("--ledger", metavar="PATH", help="A site's ledger.db or home; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a run's receipts against its manifest, and against the ledgers given.

    Exit code 1, with the first round and site that are wrong, if something does not hold.
    """
    from confide.audit_view import print_run, run_table
    from confide.console import print_json

    audit = confide.audit_run(run, ledgers=ledgers or ())
    if json:
        print_json(run_table(audit))
    else:
        print_run(audit)


@app.command()
def card(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="An exported adapter's folder, or its privacy-card.json.")
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="HEX", help="The coordinator's public key, as you know it."),
    ] = None,
    json: Json = False,
) -> None:
    """Verify an exported adapter's privacy card: its signature, and that the files are those it is of.

    Exit code 1, with what is wrong, if something does not hold.
    """
    from confide.card_view import card_table, print_card
    from confide.console import print_json

    found, signer = confide.audit_card(path, key=key)
    if json:
        print_json(card_table(found, signer))
    else:
        print_card(found, signer, known=key is not None)


@app.command()
def log(
    path: Annotated[
        Path, typer.Argument(metavar="SITE", help="A site's home or ledger.db, or a simulation's book.db.")
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Write a file, .csv or .json, in place of a table."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="HEX", help="The site's public key, as you know it from elsewhere."),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option("--site", metavar="NAME", help="Which site, where a book.db has many."),
    ] = None,
    json: Json = False,
) -> None:
    """Export a site's records of processing: who ran what on which data, when, by whose leave, at what
    cost.

    The whole ledger is verified first. Exit code 1, and nothing is written, if something does not hold.
    """
    from confide.console import print_json
    from confide.log_view import log_table, print_log, write_log

    record = confide.audit_log(path, key=key, site=site)
    if to is not None:
        write_log(record, to)
        if not json:
            print(printable(f"Wrote {len(record.lines)} records of {record.site} to {to}"))
    if json:
        print_json(log_table(record))
    elif to is None:
        print_log(record)


@app.command()
def drift(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run's folder, such as last month's.")],
    second: Annotated[
        Path, typer.Argument(metavar="RUN_B", help="Another run of the same model and task.")
    ],
    data: Annotated[
        Path,
        typer.Option("--data", metavar="FILE", help="Held-out texts, with the columns of the job's data."),
    ],
    json: Json = False,
) -> None:
    """Compare which tokens two runs' adapters go by on held-out texts, and show where that shifted most."""
    from confide.console import print_json
    from confide.drift_view import drift_table, print_drift

    found = confide.audit_drift(first, second, data)
    if json:
        print_json(drift_table(found))
    else:
        print_drift(found)


for command in (empirical, sites, attack, inversion, report):
    app.command()(command)
