"""TLS between two ends in one process, without a socket."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path


def real_now() -> datetime:
    """TLS libraries ask the machine's clock, so certificates that they check are made by it."""
    return datetime.now(UTC)


def handshake(trusted: Path, key: Path, certificate: Path, name: str) -> None:
    """Raises ssl.SSLCertVerificationError unless a client that trusts one file believes the server."""
    client_context = ssl.create_default_context(cafile=str(trusted))
    client_context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (client, server):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return
    raise ssl.SSLError("the handshake did not end")
