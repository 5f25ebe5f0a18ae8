"""Envelopes on their way between relay and agent: in chunks, over a channel that nobody else can join."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc

from privacy.errors import RunError
from protocol.messages import confide_pb2 as pb

CHUNK_BYTES = 1 << 20
LONGEST_CHUNK = 2 * CHUNK_BYTES  # bytes, on the wire
UNIX = "unix:"

_OPTIONS = (
    ("grpc.max_send_message_length", LONGEST_CHUNK),
    ("grpc.max_receive_message_length", LONGEST_CHUNK),
    # It is this machine, or the one beside it: no proxy stands in between.
    ("grpc.enable_http_proxy", 0),
)


def in_chunks(content: bytes) -> Iterator[pb.Chunk]:
    """Bytes in chunks of 1 MiB; at least one."""
    for start in range(0, max(len(content), 1), CHUNK_BYTES):
        yield pb.Chunk(data=content[start : start + CHUNK_BYTES])


def open_channel(address: str, keys: Path | None) -> grpc.Channel:
    """A channel to the agent at ``unix:PATH``, or at ``host:port`` with the keys in a folder.

    That folder holds relay.key and relay.crt, and agent.crt, which is the only certificate that is taken.
    Raises RunError if it cannot be read.
    """
    if address.startswith(UNIX):
        return grpc.insecure_channel(address, options=_OPTIONS)
    if keys is None:
        raise RunError(
            f"expected the folder of relay.key, relay.crt and agent.crt to reach {address}, got none"
        )
    try:
        pinned, key, certificate = (
            (keys / name).read_bytes() for name in ("agent.crt", "relay.key", "relay.crt")
        )
        name = _name_in(pinned)
    except (OSError, ValueError) as error:
        raise RunError(f"the relay's keys in {keys} cannot be read: {error}") from error
    credentials = grpc.ssl_channel_credentials(pinned, key, certificate)
    # The certificate is pinned: by what name the agent is reached adds nothing.
    return grpc.secure_channel(address, credentials, options=(*_OPTIONS, (_TARGET_NAME, name)))


_TARGET_NAME = "grpc.ssl_target_name_override"


def _name_in(certificate: bytes) -> str:
    """A name that a certificate is for. Raises ValueError if it is for none."""
    from cryptography import x509

    try:
        extension = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound as error:
        raise ValueError("agent.crt is for no name") from error
    names = extension.value.get_values_for_type(x509.DNSName)
    if not names:
        raise ValueError("agent.crt is for no name")
    return names[0]
