"""The process of a site's relay: ``python -P -m client.relay.relay_process --superlink HOST:PORT …``.

``confide site start`` starts it, with another user's rights where site.toml names one. It reads the
node's key, the authority's certificate and, to reach an agent over TLS, the relay's keys, and no site.toml.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.relay.delivery import deliver
from client.relay.resident_relay import ResidentRelay
from privacy.errors import ConfideError, KeyFileError
from protocol.processes.flower_internals import connect_to_fleet
from protocol.processes.json_log import log_to_terminal

# Of the process, in bytes: an answer over HTTP is read whole, however long a SuperLink makes it. Messages
# of MOST_BYTES are held three times, as objects, in one piece and on their way.
MOST_MEMORY = 4 << 30

log = logging.getLogger("confide.relay")


class Ended(BaseException):
    """A signal ended the process; no error that anybody is to handle on the way out."""


def main(arguments: list[str] | None = None) -> None:
    """Run a relay until SIGTERM or SIGINT. Exits with code 1 if it cannot, and says why."""
    options = _options(arguments)
    log_to_terminal()
    _bound_memory()
    _end_with_any_thread()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        _relay(options)
    except ConfideError as error:
        log.error("%s", error)
        raise SystemExit(error.exit_code) from error
    except Ended as ended:
        log.info("%s", ended)
        raise SystemExit(0) from None


def _relay(options: argparse.Namespace) -> None:
    key = _read_key(options.auth_supernode_private_key)
    carry = partial(deliver, address=options.agent, keys=options.keys)
    with connect_to_fleet(options.superlink, authority=options.root_certificates, key=key) as fleet:
        log.info("connected to %s; messages go to %s", options.superlink, options.agent)
        ResidentRelay(fleet, carry).run()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--superlink", required=True, help="host:port of the coordinator")
    parser.add_argument("--root-certificates", required=True, type=Path, help="the authority's, PEM")
    parser.add_argument("--auth-supernode-private-key", required=True, type=Path, help="the node's")
    parser.add_argument("--agent", required=True, help="unix:PATH or host:port")
    parser.add_argument("--keys", type=Path, help="folder of relay.key, relay.crt and agent.crt, for TLS")
    return parser.parse_args(arguments)


def _read_key(path: Path) -> EllipticCurvePrivateKey:
    """The node's key, as ssh-keygen writes it. Raises KeyFileError."""
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} cannot be read as the node's private key: {error}") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise KeyFileError(f"{path}: expected a key on an elliptic curve of NIST's, got another one")
    return key


def _bound_memory() -> None:
    """A process under a stricter limit, or that may set none, keeps what it has."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _end_with_any_thread() -> None:
    """End the process when a thread fails: without its heartbeats, say, no message would come any more."""
    tell = threading.excepthook

    def end(found: threading.ExceptHookArgs) -> None:
        tell(found)
        os._exit(1)

    threading.excepthook = end


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """At the first signal, say goodbye to the SuperLink; the next one ends the process at once."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, _frame: os._exit(128 + number))
    # Flower's connection sends SIGINT to its own process when the SuperLink refuses the node's key.
    refused = "the SuperLink turns this node away, or Ctrl-C was pressed: the relay ends"
    raise Ended(refused if number == signal.SIGINT else "the relay was told to end")


if __name__ == "__main__":
    main()
