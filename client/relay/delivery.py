"""An envelope's way from the relay to the site's agent, and the answer's way back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import grpc

from privacy.errors import ProtocolError, RunError
from protocol.messages.channel import in_chunks, open_channel
from protocol.messages.confide_pb2_grpc import AgentStub
from protocol.messages.envelope import TURNED_AWAY, read_expiry

PAUSE = 0.5  # seconds before an agent that is gone or full is asked again

# An agent that is gone, or stops, comes again; one that is full has room later. It answers one request
# once, however often it is asked.
_LATER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}


def deliver(
    envelope: bytes,
    address: str,
    *,
    keys: Path | None = None,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], object] = time.sleep,
) -> bytes:
    """Ask the agent at ``address`` until it answers or the envelope expires: the agent's envelope.

    Raises ProtocolError with the agent's reason if it turns the envelope away, RunError if it cannot be
    reached in time.
    """
    expires = read_expiry(envelope)
    while True:
        try:
            return _ask(envelope, address, keys, seconds=max(expires - clock(), 1.0))
        except grpc.RpcError as error:
            why = str(error.details())
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise ProtocolError(f"{TURNED_AWAY}: {why}") from error
            if error.code() not in _LATER:
                raise RunError(f"the site's agent failed: {error.code().name}, {why}") from error
            if clock() + PAUSE >= expires:
                raise RunError(
                    f"the site's agent could not be reached before the envelope expired: {why}"
                ) from error
        pause(PAUSE)


def _ask(envelope: bytes, address: str, keys: Path | None, *, seconds: float) -> bytes:
    with open_channel(address, keys) as channel:
        chunks = AgentStub(channel).Deliver(in_chunks(envelope), timeout=seconds)
        return b"".join(chunk.data for chunk in chunks)
