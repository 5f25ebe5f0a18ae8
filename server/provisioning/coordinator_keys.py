"""The coordinator's own keys: who signs, and the certificate that its server shows to sites."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from privacy.durable import PUBLIC_FILE, make_private_folder, write_durably
from privacy.errors import KeyFileError
from privacy.identity import Identity
from protocol.messages.keys import load_or_create_tls_key, load_tls_key
from server.provisioning.authority import Authority, read_certificate
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.provisioning.federation_file import FederationFile


def make_coordinator(
    folder: CoordinatorFolder, authority: Authority, file: FederationFile, *, now: datetime
) -> bytes:
    """Make what is missing of a coordinator's keys; its public key, 32 bytes."""
    make_private_folder(folder.path)
    identity = Identity.load_or_create(folder.identity_key)
    if not folder.authority_certificate.exists():
        write_durably(folder.authority_certificate, authority.pem, mode=PUBLIC_FILE)
    certify_server(folder, authority, file, now=now)
    return identity.public


def certify_server(
    folder: CoordinatorFolder, authority: Authority, file: FederationFile, *, now: datetime
) -> None:
    """A new certificate for the server's key, which is made if it is not there.

    Raises KeyFileError if the authority is not the one that the federation's sites trust.
    """
    if authority.certificate != read_certificate(folder.authority_certificate):
        raise KeyFileError(
            f"the authority is not that of {folder.authority_certificate}, which sites trust: bring that "
            "one back"
        )
    key = load_or_create_tls_key(folder.server_key)
    content = authority.issue(
        key.public_key(), name=file.name, host=file.host, days=file.valid_days, now=now
    )
    write_durably(folder.server_certificate, content, mode=PUBLIC_FILE)


def certificate_fits(certificate: Path, key: Path) -> bool:
    """Whether a certificate is that of a key; also where one of them is kept elsewhere."""
    if not (certificate.exists() and key.exists()):
        return True
    return read_certificate(certificate).public_key() == load_tls_key(key).public_key()
