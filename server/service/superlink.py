"""How Flower's SuperLink is started for a coordinator, and what it listens on.

The Fleet, Control and Runtime APIs share one port, and only the first asks who is calling: so it listens on
loopback alone, under a certificate that is good for nothing else.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from privacy.errors import UserError
from protocol.processes.flower_process import Program, flower_environment
from server.provisioning.authority import LOOPBACK, loopback_certificate
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.flower_cli import read_address

# Which folder a coordinating process is to serve; it inherits this from the SuperLink.
SERVED = "CONFIDE_COORDINATOR"


_SUPERLINK = "server.service.lean_superlink"
_SOURCE = Path(__file__).resolve().parents[2]

# Seconds between two looks for runs to start: each costs what a site's look costs, and runs are rare.
_CALM = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1"}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a SuperLink listens, and with what it shows that it is the one; ``authority`` signed that."""

    host: str
    port: int
    certificate: Path
    key: Path
    authority: Path

    @property
    def address(self) -> str:
        return join_address(self.host, self.port)

    def answers(self) -> bool:
        """Whether it is up and shows the certificate that it should."""
        context = ssl.create_default_context(cafile=str(self.authority))
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=5, context=context)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 number."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host, by its name or number alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hidden_endpoint(folder: CoordinatorFolder, *, movable: bool) -> Endpoint:
    """Loopback, for what stands behind a proxy.

    Its port is that of last time; if it is ``movable``, only while nobody else listens there.
    """
    known = read_address(folder.flower_home)
    port = None if known is None else int(known.rpartition(":")[2])
    if port == folder.federation.port or (movable and port is not None and _taken(port)):
        port = None
    key, certificate = loopback_certificate(folder.flower_home)
    return Endpoint(
        host=LOOPBACK,
        port=port or _free_port(),
        certificate=certificate,
        key=key,
        authority=certificate,
    )


def open_endpoint(folder: CoordinatorFolder) -> Endpoint:
    """The very address that sites know, which must be on loopback. Raises UserError if it is not."""
    federation = folder.federation
    if not is_loopback(federation.host):
        raise UserError(f"expected an address on loopback, got {federation.address}")
    return Endpoint(
        host=federation.host,
        port=federation.port,
        certificate=folder.server_certificate,
        key=folder.server_key,
        authority=folder.authority_certificate,
    )


def superlink_program(folder: CoordinatorFolder, endpoint: Endpoint) -> Program:
    """The SuperLink of a coordinator's folder. Paths are absolute: its children run elsewhere."""
    home = folder.flower_home.resolve()
    command = (
        *(sys.executable, "-P", "-m", _SUPERLINK, "--host", endpoint.host, "--port", str(endpoint.port)),
        *("--ssl-ca-certfile", str(endpoint.authority.resolve())),
        *("--ssl-certfile", str(endpoint.certificate.resolve())),
        *("--ssl-keyfile", str(endpoint.key.resolve())),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", str(folder.database.resolve())),
    )
    return Program(
        name="SuperLink",
        command=command,
        environment={
            **flower_environment(home),
            **_CALM,
            SERVED: str(folder.path.resolve()),
            "PYTHONPATH": os.pathsep.join(filter(None, [os.fspath(_SOURCE), os.environ.get("PYTHONPATH")])),
        },
        folder=home,
        log=folder.logs / "superlink.log",
    )


def wait_until(
    ready: Callable[[], bool],
    *,
    alive: Callable[[], bool],
    pause: Callable[[float], object],
    patience: float = 60.0,
) -> bool:
    """Ask again and again, at most ``patience`` seconds; False as soon as nothing is alive to ask."""
    for _ in range(int(patience / 0.1)):
        if ready():
            return True
        if not alive():
            return False
        pause(0.1)
    return False


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
