"""The coordinator's folder: what provisioning made for it, and where its processes keep theirs.

::

    federation.json          who is in the federation: public facts, read anew whenever they are asked for
    ca.crt server.crt .key   how sites know this server
    identity.key             signs what the coordinator says to sites
    nodes/<site>.pub         the node keys of the sites that are not revoked
    superlink.db flower/ proxy/ logs/ runs/     made when they are needed
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from privacy.durable import PUBLIC_FILE, write_durably
from privacy.errors import KeyFileError, UserError
from privacy.identity import Identity
from protocol.job.job_file import explain
from protocol.messages.site_name import SiteName
from server.provisioning.authority import expiry_notice, valid_until
from server.provisioning.federation_file import Address, FederationName, Hex32, NodeKey, split_address


class FederationSite(BaseModel):
    """What the coordinator knows of a site: its Ed25519 key, and its node's as an OpenSSH line."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    node: NodeKey
    identity: Hex32
    revoked: bool = False

    @property
    def identity_key(self) -> bytes:
        """The site's public key: 32 bytes."""
        return bytes.fromhex(self.identity)


class Federation(BaseModel):
    """``federation.json``: ``coordinator`` is its Ed25519 key as hex; ``sites`` are all that ever were."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: FederationName
    address: Address
    coordinator: Hex32
    sites: dict[SiteName, FederationSite]

    @model_validator(mode="after")
    def _distinct(self) -> Federation:
        for key in ("identity", "node"):
            given = [getattr(site, key) for site in self.sites.values()]
            if len(set(given)) < len(given):
                raise ValueError(f"sites: two of them have the same {key}")
        return self

    @property
    def coordinator_key(self) -> bytes:
        """The coordinator's public key: 32 bytes."""
        return bytes.fromhex(self.coordinator)

    @property
    def host(self) -> str:
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        return split_address(self.address)[1]

    @property
    def active_sites(self) -> dict[str, FederationSite]:
        """The sites that are not revoked, by name."""
        return {name: site for name, site in self.sites.items() if not site.revoked}


class CoordinatorFolder:
    """The paths in a coordinator's folder, and what is read from them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> CoordinatorFolder:
        """A folder that provisioning finished. Raises UserError naming what it lacks."""
        folder = cls(path)
        _ = folder.federation
        needed = (folder.authority_certificate, folder.server_certificate, folder.server_key)
        missing = [str(file) for file in (*needed, folder.identity_key) if not file.exists()]
        if missing:
            raise UserError(f"expected {', '.join(missing)} as `confide provision` wrote it: bring it back")
        return folder

    @property
    def federation_path(self) -> Path:
        return self.path / "federation.json"

    @property
    def authority_certificate(self) -> Path:
        return self.path / "ca.crt"

    @property
    def server_certificate(self) -> Path:
        return self.path / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.path / "server.key"

    @property
    def identity_key(self) -> Path:
        return self.path / "identity.key"

    @property
    def nodes(self) -> Path:
        return self.path / "nodes"

    def node_key(self, site: str) -> Path:
        """The file with a site's public node key."""
        return self.nodes / f"{site}.pub"

    @property
    def database(self) -> Path:
        return self.path / "superlink.db"

    @property
    def flower_home(self) -> Path:
        return self.path / "flower"

    @property
    def proxy(self) -> Path:
        return self.path / "proxy"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def run(self, name: str) -> Path:
        """The folder of a run. Raises UserError for a name that is a path."""
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise UserError(f"expected the name of a run under {self.runs}, got {name!r}")
        return self.runs / name

    @property
    def is_provisioned(self) -> bool:
        return self.federation_path.exists()

    @property
    def federation(self) -> Federation:
        """What federation.json says now: a site may be revoked while a server runs. Raises UserError."""
        path = self.federation_path
        try:
            return Federation.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} is no coordinator's folder: no {path.name} in it; `confide provision` makes "
                "one, and --coordinator names it"
            ) from error
        except ValidationError as error:
            raise UserError(f"{path}: {explain(error, shown_by='that provisioning writes')}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error

    def write_federation(self, federation: Federation) -> None:
        """Replace federation.json, whole and for good; nothing is written if it says that already."""
        if self.is_provisioned and self.federation == federation:
            return
        content = json.dumps(federation.model_dump(), indent=2) + "\n"
        write_durably(self.federation_path, content.encode(), mode=PUBLIC_FILE)

    def identity(self) -> Identity:
        """The coordinator's key. Raises KeyFileError unless it is the one that federation.json names."""
        identity = Identity.load(self.identity_key)
        if identity.public != self.federation.coordinator_key:
            raise KeyFileError(
                f"{self.identity_key} is not the key that {self.federation_path} names, which sites have "
                "pinned: bring that one back"
            )
        return identity

    def authority_until(self) -> datetime:
        """When the federation's authority ends, in UTC. Raises KeyFileError without its certificate."""
        return valid_until(self.authority_certificate)

    def server_until(self) -> datetime:
        """When the server's certificate ends, in UTC. Raises KeyFileError without one."""
        return valid_until(self.server_certificate)

    def expiry_notices(self, now: datetime) -> list[str]:
        """A sentence for each certificate that has expired or will within 30 days."""
        notices = [
            expiry_notice(
                "the federation's authority",
                self.authority_until(),
                now=now,
                remedy="provision a new federation; sites need its kits",
            )
        ]
        if self.server_certificate.exists():
            notices.append(
                expiry_notice(
                    "the server's certificate",
                    self.server_until(),
                    now=now,
                    remedy="`confide provision` with --renew makes another",
                )
            )
        return [notice for notice in notices if notice is not None]
