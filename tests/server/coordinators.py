"""Coordinators' folders on a port that is free, and what happens to their sites."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privacy.identity import Identity
from protocol.messages.keys import load_or_create_tls_key
from server.provisioning.authority import Authority, loopback_certificate
from server.provisioning.coordinator_folder import CoordinatorFolder, Federation, FederationSite
from server.service.flower_cli import write_connection
from tests.ports import free_port


def make_site(folder: CoordinatorFolder, name: str) -> FederationSite:
    """A new site, whose node's private key stays under ``keys/`` beside the folder."""
    key = ec.generate_private_key(ec.SECP384R1())
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    folder.nodes.mkdir(parents=True, exist_ok=True)
    folder.node_key(name).write_bytes(line + b"\n")
    keys = folder.path.parent / "keys"
    keys.mkdir(exist_ok=True)
    (keys / name).write_bytes(private)
    (keys / name).chmod(0o600)
    return FederationSite(node=line.decode(), identity=Identity.generate().public.hex())


def make_coordinator(
    path: Path, *sites: str, host: str = "localhost", port: int | None = None, days: int = 365
) -> CoordinatorFolder:
    folder = CoordinatorFolder(path / "coordinator")
    folder.path.mkdir(parents=True)
    now, name = datetime.now(UTC), "three-clinics"
    authority = Authority.load_or_create(path / "ca", name=name, now=now)
    key = load_or_create_tls_key(folder.server_key)
    folder.authority_certificate.write_bytes(authority.pem)
    folder.server_certificate.write_bytes(
        authority.issue(key.public_key(), name=name, host=host, days=days, now=now)
    )
    identity = Identity.load_or_create(folder.identity_key)
    folder.write_federation(
        Federation(
            name=name,
            address=f"{host}:{port or free_port()}",
            coordinator=identity.public.hex(),
            sites={site: make_site(folder, site) for site in sites},
        )
    )
    return folder


def fix_superlink_port(folder: CoordinatorFolder) -> None:
    """As if a server had run before: its SuperLink listens at the port of last time, which is free."""
    _, certificate = loopback_certificate(folder.flower_home)
    write_connection(folder.flower_home, address=f"127.0.0.1:{free_port()}", authority=certificate)


def change_sites(folder: CoordinatorFolder, **sites: FederationSite) -> None:
    """Add sites or replace them in federation.json."""
    now = folder.federation
    folder.write_federation(now.model_copy(update={"sites": now.sites | sites}))


def revoke(folder: CoordinatorFolder, name: str) -> None:
    site = folder.federation.sites[name]
    change_sites(folder, **{name: site.model_copy(update={"revoked": True})})
