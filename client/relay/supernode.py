"""Flower's own SuperNode as a site's relay: it starts a process of Flower's for every message."""

from __future__ import annotations

import socket
from pathlib import Path

from client.custody.site_file import SiteFile
from protocol.messages.channel import UNIX
from protocol.processes.flower_process import flower_program

_LOOPBACK = "127.0.0.1"


def supernode_command(relay: Path, site_file: SiteFile) -> tuple[str, ...]:
    """A SuperNode's command line, with the keys in a home's relay/. Raises RunError if there is none."""
    return (
        flower_program("flower-supernode"),
        *("--superlink", site_file.site.coordinator, "--root-certificates", str(relay / "ca.crt")),
        *("--auth-supernode-private-key", str(relay / "node.key")),
        *("--isolation", "subprocess", "--host", _LOOPBACK),
        *("--port", str(site_file.relay.port or _free_port())),
        *("--node-config", node_config(relay, site_file)),
    )


def node_config(relay: Path, site_file: SiteFile) -> str:
    """What its app is told, as Flower reads it: where the agent is, and with which keys it is reached."""
    address = site_file.agent_address
    keys = "" if address.startswith(UNIX) else f' relay="{relay}"'
    return f'agent="{address}"{keys}'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])
