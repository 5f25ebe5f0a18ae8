"""A page of metrics, as Prometheus reads them, at an address of its own."""

from __future__ import annotations

import logging
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from ipaddress import ip_address
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from privacy.errors import RunError, UserError

log = logging.getLogger("confide.metrics")

_ADDRESS = re.compile(
    r"\[(?P<v6>[0-9A-Fa-f:]+)\]:(?P<p6>[0-9]{1,5})|(?P<host>[^:\[\]]+):(?P<port>[0-9]{1,5})"
)
_PATIENCE = 5.0  # seconds for whoever asks to go on


@contextmanager
def metrics_page(address: str, registry: CollectorRegistry) -> Iterator[str]:
    """Within this block, show a registry's metrics to whoever asks at ``host:port``; yields the address.

    One request is answered at a time. Raises UserError if it is no address, RunError if it is taken.
    """
    host, port = split(address)
    handler = type("Page", (MetricsHandler,), {"registry": registry, "timeout": _PATIENCE})
    try:
        server = _Server(host, port, handler)
    except OSError as error:
        raise RunError(
            f"metrics: cannot listen at {address}: {error.strerror or error}; name another address"
        ) from error
    if not _is_loopback(host):
        log.warning("whoever reaches %s can read the metrics there", address)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        taken = server.server_address[1]
        yield f"[{host}]:{taken}" if ":" in host else f"{host}:{taken}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def split(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[ipv6]:port``. Raises UserError for anything else."""
    match = _ADDRESS.fullmatch(address)
    port = int(match["p6"] or match["port"]) if match else -1
    if match is None or port > 65535:
        raise UserError(f"metrics: expected host:port, as 127.0.0.1:9464, got {address!r}")
    return match["v6"] or match["host"], port


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(HTTPServer):
    """Answers one at a time, so that nobody who asks can make this process start threads."""

    def __init__(self, host: str, port: int, handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the network for this machine's name.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's
        log.debug("whoever asked for metrics went away")
