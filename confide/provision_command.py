"""``confide provision``: the keys and folders of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.provisioning.federation_file import FederationFile
    from server.provisioning.provision import Provisioned, SiteOutcome

Names = list[str] | None


def provision(
    file: Annotated[
        Path, typer.Argument(metavar="FEDERATION.TOML", help="Who is in the federation.")
    ] = Path("federation.toml"),
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to write, or to bring up to date.")
    ] = Path("federation"),
    renew: Annotated[
        bool, typer.Option("--renew", help="Make a new server certificate; sites need nothing new.")
    ] = False,
    reissue: Annotated[
        Names, typer.Option(metavar="SITE", help="Make a new kit with new keys; repeatable.")
    ] = None,
    revoke: Annotated[Names, typer.Option(metavar="SITE", help="Shut a site out; repeatable.")] = None,
) -> None:
    """Make keys, certificates and a folder for the coordinator and for each site."""
    from datetime import UTC, datetime

    from server.provisioning.federation_file import read_federation_file
    from server.provisioning.provision import provision as provision_federation

    now = datetime.now(UTC)
    parsed = read_federation_file(file)
    check_policies(parsed)
    found = provision_federation(
        parsed, out, now=now, renew=renew, reissue=reissue or (), revoke=revoke or ()
    )
    print_provisioned(found)
    for notice in found.coordinator.expiry_notices(now):
        print(f"Warning: {notice}")


def check_policies(file: FederationFile) -> None:
    """Raises UserError unless each site could read the site.toml that its kit would hold."""
    import tomllib

    from pydantic import ValidationError

    from client.custody.site_file import SiteFile
    from privacy.errors import UserError
    from protocol.job.job_file import explain
    from server.provisioning.site_template import site_toml

    for entry in file.site:
        text = site_toml(entry, federation=file.name, address=file.address, coordinator="0" * 64)
        try:
            SiteFile.model_validate(tomllib.loads(text))
        except ValidationError as error:
            reasons = explain(error, shown_by="that docs/policy.md lists")
            raise UserError(f"site {entry.name}: {reasons}") from None


def print_provisioned(found: Provisioned) -> None:
    """What there is, what is new, and what to do next."""
    from rich.console import Console

    from confide.console import plain_table, shown
    from server.provisioning.authority import format_day

    federation = found.coordinator.federation
    console = Console(highlight=False, emoji=False)
    console.print(f"Federation {shown(federation.name)} at {shown(federation.address)}\n")
    table = plain_table("who", "state", "folder", left=3)
    table.add_row("coordinator", "made" if found.is_new else "here", shown(str(found.coordinator.path)))
    for site in found.sites:
        table.add_row(shown(site.name), site.state, shown(str(site.kit)) if _is_here(site) else "")
    console.print(table)
    authority = format_day(found.authority_until)
    server = "not here" if found.server_until is None else f"until {format_day(found.server_until)}"
    renewed = ", renewed" if found.renewed else ""
    console.print(f"\nCertificates: authority until {authority}, server {server}{renewed}\n")
    for step in _next_steps(found):
        console.print(shown(step), soft_wrap=True)


def _is_here(site: SiteOutcome) -> bool:
    return site.kit.exists()


def _next_steps(found: Provisioned) -> Iterator[str]:
    folder = found.coordinator.path
    if found.is_new:
        yield f"Keep {found.folder / 'ca'} offline: whoever has it can pass for the coordinator's server."
        yield f"{folder} belongs on the coordinator's machine: confide server start {folder}"
    else:
        changed = ["federation.json and nodes/"] * found.changed + ["server.crt"] * found.renewed
        if changed:
            yield f"Bring {' and '.join(changed)} of {folder} to the coordinator's machine."
    if found.renewed:
        yield "Restart its server: confide server start"
    if found.moved:
        yield "The address changed: each site changes site.coordinator in its site.toml."
    if found.peers_changed and any(site.state in ("here", "handed over") for site in found.sites):
        yield (
            f"Each custodian who has a kit already copies {found.folder / 'peers.toml'} into the site's "
            "home, unchanged: a site adds masks with the sites that it names and no others."
        )
    made = [site for site in found.sites if site.state == "made"]
    if any(not site.has_own_keys for site in made):
        yield "Hand each kit over to its site, over a channel that nobody else reads, and delete it here."
    elif made:
        yield "Hand each kit over to its site; there are no private keys in it."
    for site in found.sites:
        if site.state == "handed over":
            yield f"The kit of {site.name} was handed over; --reissue {site.name} makes one with new keys."
        elif site.state == "revoked" and _is_here(site):
            yield f"Delete {site.kit}: its keys are revoked."
    if made:
        yield "At each site: edit site.toml, then: confide site start site.toml"
