"""``peers.toml``: the sites of a federation and their identity keys, as each site pins them."""

from __future__ import annotations

from pathlib import Path

from privacy.durable import PUBLIC_FILE, write_durably
from server.provisioning.coordinator_folder import Federation

FILE = "peers.toml"


def peers_toml(federation: Federation) -> str:
    """The file's text. What provisioning takes as a site's name needs no quotes in TOML."""
    sites = sorted(federation.active_sites.items())
    newline = "\n"
    return f"""\
# The sites of the federation {federation.name}, each with its identity key. It lies in each site's
# home: whatever the coordinator says, a site hides its updates among these and no others.

[peers]
{newline.join(f'{name} = "{site.identity}"' for name, site in sites)}
"""


def write_peers(folder: Path, text: str) -> bool:
    """Bring the file in a folder up to date, whole and for good; whether it said anything else before."""
    path = folder / FILE
    if path.exists() and path.read_bytes() == text.encode():
        return False
    write_durably(path, text.encode(), mode=PUBLIC_FILE)
    return True
