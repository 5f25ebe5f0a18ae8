"""``confide server``: what whoever runs a federation's coordinator types."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from confide.shared_options import Json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.provisioning.coordinator_folder import CoordinatorFolder

app = typer.Typer(no_args_is_help=True, help="Run a federation's server, and look at it.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]
FOLDER = Path("federation/coordinator")


class Proxy(StrEnum):
    """What stands before the SuperLink."""

    nginx = "nginx"
    embedded = "embedded"
    none = "none"


@app.command()
def start(
    folder: Folder = FOLDER,
    proxy: Annotated[
        Proxy | None,
        typer.Option(
            help="What stands before the server; none if it is a proxy of your own.",
            show_default="nginx if it is installed, else embedded",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Show metrics for Prometheus there.")
    ] = None,
) -> None:
    """Serve a federation until Ctrl-C: its sites connect here, and runs are started here."""
    from server.provisioning.coordinator_folder import CoordinatorFolder
    from server.service.server import Service

    opened = CoordinatorFolder.open(folder)
    with _told_to_stop() as told, _metrics(opened, metrics):
        Service(opened, proxy=_proxy(proxy), say=_say).run(told.stop)
    if told.by_keyboard:
        raise typer.Exit(130)


@app.command()
def status(
    folder: Folder = FOLDER,
    json: Json = False,
) -> None:
    """Show the sites, the certificates and the runs of a federation."""
    from confide.server_view import print_status, print_status_json
    from server.provisioning.coordinator_folder import CoordinatorFolder
    from server.service.server_status import read_status

    found = read_status(CoordinatorFolder.open(folder))
    (print_status_json if json else print_status)(found)


@app.command("proxy-config")
def proxy_config(folder: Folder = FOLDER) -> None:
    """Print the nginx configuration that the server stands behind, to adapt a proxy of your own."""
    from server.provisioning.coordinator_folder import CoordinatorFolder
    from server.service.flower_cli import read_address, write_connection
    from server.service.proxy import proxy_configuration
    from server.service.superlink import hidden_endpoint

    opened = CoordinatorFolder.open(folder)
    endpoint = hidden_endpoint(opened, movable=False)
    if read_address(opened.flower_home) is None:  # the server takes the port that is printed here
        write_connection(opened.flower_home, address=endpoint.address, authority=endpoint.authority)
    print(proxy_configuration(opened, endpoint), end="")


def _proxy(asked: Proxy | None) -> str | None:
    """What to run before the SuperLink, or None. Raises UserError for an nginx that is not there."""
    from privacy.errors import UserError
    from server.service.proxy import choose_proxy, find_nginx

    if asked is Proxy.nginx and find_nginx() is None:
        raise UserError("nginx is not installed: install it, or leave --proxy out for the embedded proxy")
    if asked is None:
        return choose_proxy()
    return None if asked is Proxy.none else asked.value


@contextmanager
def _metrics(folder: CoordinatorFolder, address: str | None) -> Iterator[None]:
    """Show the folder's metrics within this block, if an address is given."""
    if address is None:
        yield
        return
    from protocol.processes.metrics_page import metrics_page
    from server.service.server_telemetry import FolderMetrics

    with metrics_page(address, FolderMetrics(folder).registry()):
        yield


class _Told:
    """Whether to stop, and whether Ctrl-C said so."""

    def __init__(self) -> None:
        self.stop, self.by_keyboard = threading.Event(), False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.by_keyboard = self.by_keyboard or number == signal.SIGINT
        self.stop.set()


@contextmanager
def _told_to_stop() -> Iterator[_Told]:
    told = _Told()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, told) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    from confide.console import printable

    print(f"{time.strftime('%H:%M:%S')} {printable(line)}", flush=True)
