"""The relay's own user: what it may have of a site's home, and that it has nothing else."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from client.custody.site_file import PACKAGE, SiteFile
from privacy.errors import UserError

_READ, _WRITE, _ENTER = 4, 2, 1  # bits of a file's mode


@dataclass(frozen=True, kw_only=True)
class RelayUser:
    """Another user of this machine, who runs the relay."""

    name: str
    number: int
    group: int
    groups: frozenset[int]

    def may(self, bits: int, path: Path) -> bool:
        """Whether the modes of a file and of all folders above it let this user do something with it."""
        above = list(path.resolve().parents)
        return all(self._has(_ENTER, folder) for folder in above) and self._has(bits, path)

    def _has(self, bits: int, path: Path) -> bool:
        found = path.stat()
        if found.st_uid == self.number:
            granted = found.st_mode >> 6
        elif found.st_gid in self.groups:
            granted = found.st_mode >> 3
        else:
            granted = found.st_mode
        return granted & bits == bits


def relay_user(site_file: SiteFile) -> RelayUser | None:
    """The user that ``relay.user`` names, or None if this process runs as the one it should be.

    Raises UserError if there is none, or if this process may not change to it.
    """
    name = site_file.relay.user
    if name is None:
        return None
    try:
        account = pwd.getpwnam(name)
    except KeyError as error:
        raise UserError(f"relay.user={name!r}: this machine has no such user") from error
    if account.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise UserError(
            f"relay.user={name!r}: only root starts a relay as another user; start the agent with "
            f"--agent-only, and the relay as {name} with --relay-only"
        )
    return RelayUser(
        name=name,
        number=account.pw_uid,
        group=account.pw_gid,
        groups=frozenset(os.getgrouplist(name, account.pw_gid)),
    )


def hand_over(home: Path, user: RelayUser, site_file: SiteFile) -> None:
    """Give the relay's user what is under relay/, and see that it can reach nothing else of the site.

    Needs root. The folder relay/ itself stays root's, so that nothing in it can be replaced. Raises
    UserError with what to change where this can't be set right from here.
    """
    relay = home / "relay"
    for name in ("node.key", "relay.key"):
        if (relay / name).exists():
            _own(relay / name, user.number, user.group, 0o400)
    for name in ("ca.crt", "relay.crt", "agent.crt"):
        if (relay / name).exists():
            _own(relay / name, 0, 0, 0o644)
    _own(relay, 0, 0, 0o755)
    (relay / "flower").mkdir(exist_ok=True)
    _own(relay / "flower", user.number, user.group, 0o700)
    for path in home.iterdir():
        if path.name != relay.name and not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    home.chmod(stat.S_IMODE(home.stat().st_mode) & 0o700 | 0o011)
    if not user.may(_ENTER, relay):
        raise UserError(
            f"relay.user={user.name!r} cannot reach {relay}: move the home, or let others enter "
            "every folder above it (chmod o+x)"
        )
    _check_unreachable(home, user, site_file)


def _check_unreachable(home: Path, user: RelayUser, site_file: SiteFile) -> None:
    places = {"identity.key": home / "identity.key", "ledger.db": home / "ledger.db"}
    for alias, data in site_file.data.items():
        if not data.source.startswith(PACKAGE):
            places[f"data.{alias}.source"] = Path(data.source)
    for name, path in places.items():
        if path.exists() and (user.may(_READ, path) or user.may(_WRITE, path)):
            raise UserError(
                f"relay.user={user.name!r} can reach {name}, {path}: it must not, so take it out of "
                f"that group, or chmod g-rwx,o-rwx {path}"
            )


def _own(path: Path, user: int, group: int, mode: int) -> None:
    """Raises UserError for a link: it could lead anywhere."""
    if path.is_symlink():
        raise UserError(f"{path} is a link: expected the file itself")
    os.chown(path, user, group, follow_symlinks=False)
    path.chmod(mode)
