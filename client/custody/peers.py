"""``peers.toml`` in a site's home: the sites of its federation, each with the identity key that it has.

A mask hides an update only if another site really adds its counterpart. A coordinator that could invent
sites would take all their masks off again, so a site learns who the others are from whoever provisions the
federation, and not from the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from client.custody.policy import Section, read_own_file
from privacy.errors import PolicyFileError
from protocol.job.job_file import explain
from protocol.messages.site_name import SiteName

FILE = "peers.toml"


_Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _PeersFile(Section):
    peers: Annotated[dict[SiteName, _Key], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> _PeersFile:
        keys = list(self.peers.values())
        twice = sorted(name for name, key in self.peers.items() if keys.count(key) > 1)
        if twice:
            raise ValueError(f"peers: expected a key of its own for each, got one for {', '.join(twice)}")
        return self


def read_peers(path: Path) -> Mapping[str, bytes]:
    """Read ``peers.toml``: each site's Ed25519 public key, 32 bytes, by its name; this site is among them.

    Raises PolicyFileError with one line a mistake, or if there is no such file.
    """
    if not path.exists():
        raise PolicyFileError(
            f"no peers at {path}: under secure aggregation a site must know the other sites' keys; "
            "`confide provision` writes them to peers.toml, and whoever provisions hands it over"
        )
    try:
        found = _PeersFile.model_validate(read_own_file(path, what="peers"))
    except ValidationError as error:
        raise PolicyFileError(
            f"{path}: {explain(error, shown_by='that docs/federation.md lists')}"
        ) from None
    return MappingProxyType({name: bytes.fromhex(key) for name, key in found.peers.items()})
