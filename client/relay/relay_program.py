"""The program that is a site's relay: Confide's own, or Flower's SuperNode."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from client.custody.site_file import SiteFile
from client.relay.supernode import supernode_command
from privacy.durable import make_private_folder
from privacy.errors import KeyFileError
from protocol.messages.channel import UNIX
from protocol.processes.flower_process import Program, relay_environment

_MODULE = "client.relay.relay_process"
_SOURCE = Path(__file__).resolve().parents[2]


def relay_program(home: Path, site_file: SiteFile, *, user: str | None = None) -> Program:
    """The relay of a site, with the keys in its home's relay/, as ``user`` if there is one.

    Raises KeyFileError if a key is missing.
    """
    relay = home.resolve() / "relay"
    for name in ("ca.crt", "node.key"):
        if not (relay / name).exists():
            raise KeyFileError(f"expected {relay / name}, which `confide provision` makes, found none")
    folder = relay / "flower"
    make_private_folder(folder)
    resident = site_file.relay.kind == "resident"
    # A log that another user could turn into a link is none to write as root.
    logs = folder if user is None else home.resolve() / "logs"
    return Program(
        name="relay" if resident else "SuperNode",
        command=_resident(relay, site_file) if resident else supernode_command(relay, site_file),
        environment=_resident_environment(folder) if resident else relay_environment(folder),
        folder=folder,
        log=logs / "supernode.log",
        user=user,
    )


def _resident(relay: Path, site_file: SiteFile) -> tuple[str, ...]:
    address = site_file.agent_address
    return (
        *(sys.executable, "-P", "-m", _MODULE, "--superlink", site_file.site.coordinator),
        *("--root-certificates", str(relay / "ca.crt")),
        *("--auth-supernode-private-key", str(relay / "node.key")),
        *("--agent", address, *(() if address.startswith(UNIX) else ("--keys", str(relay)))),
    )


def _resident_environment(folder: Path) -> dict[str, str]:
    """As a SuperNode's, and Confide is found where this process found it."""
    return relay_environment(folder) | {"PYTHONPATH": os.fspath(_SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
