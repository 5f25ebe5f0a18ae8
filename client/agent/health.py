"""How an agent is, asked from beside it."""

from __future__ import annotations

from pathlib import Path

import grpc

from client.custody.site_file import SiteFile
from protocol.messages import confide_pb2 as pb
from protocol.messages.channel import open_channel
from protocol.messages.confide_pb2_grpc import AgentStub

_PATIENCE = 5.0  # seconds


def ask_health(home: Path, site_file: SiteFile) -> pb.AgentHealth | None:
    """What the site's agent says of itself, None if it is not there. Raises RunError without its keys."""
    with open_channel(site_file.agent_address, home / "relay") as channel:
        try:
            health: pb.AgentHealth = AgentStub(channel).Health(pb.HealthRequest(), timeout=_PATIENCE)
        except grpc.RpcError:
            return None
        return health
