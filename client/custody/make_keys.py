"""``confide site keys``: a site makes its own keys, which then exist nowhere else."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from privacy.errors import KeyFileError
from privacy.ledger.ledger import DATABASE
from protocol.messages.site_keys import PublicKeys, make_site_keys


def make_own_keys(home: Path, *, now: datetime) -> PublicKeys:
    """Make what is missing of the keys in a site's home, and return the public ones.

    Raises KeyFileError if a ledger is there without the key that it is signed under.
    """
    if (home / DATABASE).exists() and not (home / "identity.key").exists():
        raise KeyFileError(
            f"{home} has a ledger and no identity.key, which it is signed under: bring that key back"
        )
    home.parent.mkdir(parents=True, exist_ok=True)
    return make_site_keys(home, now=now)


def public_lines(keys: PublicKeys) -> str:
    """The two lines that the site sends to whoever provisions, as they stand in federation.toml."""
    return f'identity = "{keys.identity.hex()}"\nnode = "{keys.node}"'
