"""Flower's SuperNode at a site: what runs the relay, once for every message."""

from __future__ import annotations

import socket
from pathlib import Path

from client.custody.site_file import SiteFile
from privacy.durable import make_private_folder
from privacy.errors import KeyFileError
from protocol.messages.channel import UNIX
from protocol.processes.flower_process import Program, flower_program, relay_environment

_LOOPBACK = "127.0.0.1"


def supernode_program(home: Path, site_file: SiteFile, *, user: str | None = None) -> Program:
    """The SuperNode of a site, with the keys in its home's relay/, as ``user`` if there is one.

    Raises KeyFileError if a key is missing.
    """
    relay = home.resolve() / "relay"
    for name in ("ca.crt", "node.key"):
        if not (relay / name).exists():
            raise KeyFileError(f"expected {relay / name}, which `confide provision` makes, found none")
    flower = relay / "flower"
    make_private_folder(flower)
    command = (
        flower_program("flower-supernode"),
        *("--superlink", site_file.site.coordinator, "--root-certificates", str(relay / "ca.crt")),
        *("--auth-supernode-private-key", str(relay / "node.key")),
        *("--isolation", "subprocess", "--host", _LOOPBACK),
        *("--port", str(site_file.relay.port or _free_port())),
        *("--node-config", node_config(relay, site_file)),
    )
    # A log that another user could turn into a link is none to write as root.
    logs = flower if user is None else home.resolve() / "logs"
    return Program(
        name="SuperNode",
        command=command,
        environment=relay_environment(flower),
        folder=flower,
        log=logs / "supernode.log",
        user=user,
    )


def node_config(relay: Path, site_file: SiteFile) -> str:
    """What the relay is told, as Flower reads it: where the agent is, and with which keys it is reached."""
    address = site_file.agent_address
    keys = "" if address.startswith(UNIX) else f' relay="{relay}"'
    return f'agent="{address}"{keys}'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])
