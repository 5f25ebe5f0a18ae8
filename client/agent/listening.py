"""Where an agent listens: a unix socket for its group alone, or TLS for the relay's certificate alone."""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from privacy.durable import open_private
from privacy.errors import KeyFileError, RunError, UserError
from protocol.messages.channel import UNIX
from protocol.processes.ports import is_taken

_LONGEST_PATH = 107  # bytes: what a socket's address has room for


@contextmanager
def only_agent_of(home: Path) -> Iterator[None]:
    """Within this block no other agent has this home. Raises RunError if one has it already."""
    descriptor = open_private(home / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"an agent runs at {home} already: stop it first") from error
        yield
    finally:
        os.close(descriptor)


def listen_on_socket(server: grpc.Server, path: Path, *, group: int | None) -> None:
    """Listen on a unix socket of this user (mode 0600), or of it and a group (0660).

    The caller holds the home's lock, so that what lies at ``path`` is left over. The socket is never open
    to anyone else, not for a moment: it is made for its user alone. Raises UserError or RunError.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise UserError(
            f"agent.socket={str(path)!r}: expected {_LONGEST_PATH} bytes at most; name a shorter path"
        )
    _remove_leftover(path)
    # Of the whole process: no other thread makes files yet.
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"{UNIX}{path}")
    except RuntimeError as error:
        raise RunError(f"agent.socket={str(path)!r} cannot be listened on: {error}") from error
    finally:
        os.umask(before)
    if group is not None:
        try:
            os.chown(path, -1, group)
        except PermissionError as error:
            raise UserError(
                f"agent.group: this user cannot give {path} to group {group}: make it a member"
            ) from error
        path.chmod(0o660)


def group_number(name: str) -> int:
    """A group by its name. Raises UserError if there is none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise UserError(f"agent.group={name!r}: this machine has no such group") from error


def _remove_leftover(path: Path) -> None:
    if not (path.is_symlink() or path.exists()):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise UserError(
            f"agent.socket={str(path)!r}: something else than a socket is there: name another path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(os.fsencode(path)) == 0:
            raise RunError(f"someone else listens on {path}: stop that, or name another agent.socket")
    path.unlink()


def listen_with_tls(server: grpc.Server, address: str, *, home: Path) -> int:
    """Listen on ``host:port`` with agent.key and agent.crt, to whoever has relay.key: the port.

    Raises KeyFileError or RunError.
    """
    try:
        key, certificate = (home / "agent.key").read_bytes(), (home / "agent.crt").read_bytes()
        relay = _relay_certificate(home).read_bytes()
    except OSError as error:
        raise KeyFileError(f"agent.listen needs {error.filename}: {error.strerror}") from error
    credentials = grpc.ssl_server_credentials([(key, certificate)], relay, require_client_auth=True)
    try:
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        host, _, port = address.rpartition(":")
        taken = is_taken(host.strip("[]"), int(port))
        why = "another program listens there: end it, or name another port" if taken else str(error)
        raise RunError(f"agent.listen={address!r} cannot be listened on: {why}") from error


def relay_certificate(home: Path) -> bytes:
    """The relay's certificate as DER. Raises KeyFileError."""
    path = _relay_certificate(home)
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{path} holds no certificate: {error}") from error


def _relay_certificate(home: Path) -> Path:
    return home / "relay" / "relay.crt"
