"""What a coordinator checks of a site that joins a run."""

from __future__ import annotations

from privacy.errors import ProtocolError
from protocol.messages.confide_pb2 import Joined
from runs.asked_folder import AskedFolder


def check_joined(name: str, joined: Joined, folder: AskedFolder) -> None:
    """Raises ProtocolError for a site that joined something else, or under another key than before."""
    known = folder.public_keys.get(name, joined.public_key)
    if joined.manifest_digest != folder.manifest.digest:
        raise ProtocolError(f"{name} joined another manifest than the one sent")
    if joined.public_key != known:
        raise ProtocolError(f"{name} answers under another key than the one it joined with")
