"""Federations for tests: files, folders, and what must hold of one after any number of provisionings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from client.custody.peers import read_peers
from protocol.messages.keys import load_tls_key, parse_node_key
from protocol.messages.site_keys import read_site_keys
from server.provisioning.authority import read_certificate
from server.provisioning.coordinator_folder import CoordinatorFolder, Federation
from server.provisioning.federation_file import FederationFile
from server.provisioning.provision import provision

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def federation_file(*names: str, address: str = "fl.example.org:8443", **more: object) -> FederationFile:
    """A federation with these sites."""
    sites = [{"name": name} for name in names or ("north", "south")]
    return FederationFile.model_validate({"name": "clinics", "address": address, "site": sites} | more)


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file and folder below one, with its bytes, its mode and when it was written."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mode,
            path.stat().st_mtime_ns if path.is_file() else 0,
        )
        for path in sorted(folder.rglob("*"))
    }


def federation_of(out: Path) -> Federation:
    return CoordinatorFolder(out / "coordinator").federation


def states(out: Path, file: FederationFile, **options: object) -> dict[str, str]:
    """Provision; each site's state."""
    found = provision(file, out, now=NOW, **options)
    return {site.name: site.state for site in found.sites}


def check_whole(out: Path, sites: set[str], *, kits: set[str] | None = None) -> None:
    """What is there fits together, all of it is there, and nothing is left of an interrupted run."""
    folder = CoordinatorFolder.open(out / "coordinator")
    federation = folder.federation
    assert folder.identity().public == federation.coordinator_key
    assert set(federation.sites) == sites
    assert {path.stem for path in folder.nodes.iterdir()} == set(federation.active_sites)
    for name, site in federation.active_sites.items():
        assert parse_node_key(folder.node_key(name).read_text()) == site.node
    peers = {name: site.identity_key for name, site in federation.active_sites.items()}
    if peers:
        assert read_peers(out / "peers.toml") == peers
    assert {path.name for path in (out / "kits").iterdir()} == (sites if kits is None else kits)
    for name in sites if kits is None else kits:
        kit = out / "kits" / name
        assert name not in peers or (kit / "peers.toml").read_bytes() == (out / "peers.toml").read_bytes()
        keys = read_site_keys(kit)
        assert (keys.identity, keys.node) == (
            federation.sites[name].identity_key,
            federation.sites[name].node,
        )
        for key in ("agent", "relay/relay"):
            assert _public(kit / f"{key}.crt") == load_tls_key(kit / f"{key}.key").public_key()
        assert (kit / "relay" / "agent.crt").read_bytes() == (kit / "agent.crt").read_bytes()
        assert {"site.toml", "README"} <= {path.name for path in kit.iterdir()}
    authority = read_certificate(out / "ca" / "ca.crt")
    assert authority.public_key() == load_tls_key(out / "ca" / "ca.key").public_key()
    for copy in (folder.authority_certificate, *(out / "kits").glob("*/relay/ca.crt")):
        assert copy.read_bytes() == (out / "ca" / "ca.crt").read_bytes()
    read_certificate(folder.server_certificate).verify_directly_issued_by(authority)
    assert _public(folder.server_certificate) == load_tls_key(folder.server_key).public_key()
    assert list(out.rglob(".*")) == []
    for path in (out, *out.rglob("*")):
        allowed = 0o700 if path.is_dir() else 0o600 if path.suffix == ".key" else 0o644
        assert path.stat().st_mode & 0o777 == allowed, path


def _public(path: Path) -> object:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_key()
