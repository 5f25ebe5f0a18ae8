"""``federation.toml``: who is in a federation, as its provisioner writes it."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from privacy.errors import JobError, KeyFileError, UserError
from protocol.job.data_section import SourceKeys
from protocol.job.job_file import explain
from protocol.messages.keys import parse_node_key
from protocol.messages.site_name import SiteName
from protocol.plain_text import Word
from protocol.toml_file import read_toml
from tasks.registry import DEFAULT_TASK, columns_of

SHOWN_BY = "that docs/federation.md lists"
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_DNS_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def _node_key(text: str) -> str:
    try:
        return parse_node_key(text)
    except KeyFileError as error:
        raise PydanticCustomError("node", "{reason}", {"reason": str(error)}) from None


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[ipv6]:port``. Raises UserError if it is neither."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536 and _is_host(host)):
        raise UserError(f"expected host:port, as fl.example.org:8443, got {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_host(host: str) -> bool:
    try:
        if host.startswith("[") and host.endswith("]"):
            return bool(ipaddress.IPv6Address(host[1:-1]))
        if re.fullmatch(r"[0-9.]+", host):
            return bool(ipaddress.IPv4Address(host))
    except ValueError:
        return False
    return len(host) <= 253 and all(_DNS_LABEL.fullmatch(label) for label in host.split("."))


def _address(address: str) -> str:
    try:
        split_address(address)
    except UserError:
        raise PydanticCustomError("address", "expected host:port, as fl.example.org:8443") from None
    return address


NodeKey = Annotated[str, AfterValidator(_node_key)]
Address = Annotated[str, AfterValidator(_address)]
FederationName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SiteData(SourceKeys):
    """A data set's entry in a site's site.toml: where it is there, how a task reads it, whose rows are."""

    model_config = ConfigDict(extra="allow")

    task: Word = DEFAULT_TASK
    group: Word | None = None


class SiteEntry(_Section):
    """One ``[[site]]``. ``identity`` and ``node`` are the public keys of a site that made its own.

    ``data``, ``models``, ``budget`` and ``rules`` are what its site.toml starts with; its custodian has the
    last word.
    """

    name: SiteName
    identity: Hex32 | None = None
    node: NodeKey | None = None
    data: dict[Word, SiteData] = {}
    models: dict[str, Annotated[str, Field(min_length=1)]] = {}
    budget: dict[str, Any] | None = None
    rules: dict[str, Any] = {}

    @model_validator(mode="after")
    def _whole(self) -> SiteEntry:
        if (self.identity is None) != (self.node is None):
            raise ValueError(
                f"identity: site {self.name} needs both identity and node, or neither: "
                "`confide site keys` prints both"
            )
        if "coordinator" in self.rules:
            raise ValueError(
                f"rules.coordinator: site {self.name} is given this federation's key; leave it out"
            )
        return self

    @property
    def has_own_keys(self) -> bool:
        return self.identity is not None


class FederationFile(_Section):
    """A federation.toml, whole. ``valid_days`` is for the server's certificate."""

    name: FederationName
    address: Address
    valid_days: Annotated[int, Field(ge=1, le=3650)] = 365
    site: list[SiteEntry] = Field(min_length=1)

    @property
    def host(self) -> str:
        return split_address(self.address)[0]

    @model_validator(mode="after")
    def _distinct(self) -> FederationFile:
        for key in ("name", "identity", "node"):
            # On some disks NORTH and north are one folder.
            given = [
                str(value).lower() for entry in self.site if (value := getattr(entry, key)) is not None
            ]
            twice = sorted({value for value in given if given.count(value) > 1})
            if twice:
                raise ValueError(f"site.{key}: each site has its own, got {twice[0]!r} twice")
        return self


def read_federation_file(path: Path) -> FederationFile:
    """Read federation.toml. Raises UserError with one line per wrong key.

    A data source or model that exists beside the file means that one, so that sites can be tried on one
    machine.
    """
    try:
        table = read_toml(path)
    except FileNotFoundError as error:
        raise UserError(
            f"no federation file at {path}: `confide init --federation DIR` writes one to try"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the federation file {path}: {error}") from error
    try:
        parsed = FederationFile.model_validate(table)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, shown_by=SHOWN_BY)}") from None
    for number, entry in enumerate(parsed.site):
        for alias, data in entry.data.items():
            try:
                columns_of(data.task, data.model_extra or {}, under=f"site.{number}.data.{alias}")
            except JobError as error:
                raise UserError(f"{path}: {error}") from None
    return parsed.model_copy(update={"site": [_beside(entry, path.parent) for entry in parsed.site]})


def _beside(entry: SiteEntry, folder: Path) -> SiteEntry:
    def resolve(source: str) -> str:
        beside = folder / source
        return str(beside.resolve()) if beside.exists() else source

    data = {
        alias: table.model_copy(update={"source": resolve(table.source)})
        for alias, table in entry.data.items()
    }
    models = {name: resolve(place) for name, place in entry.models.items()}
    return entry.model_copy(update={"data": data, "models": models})
