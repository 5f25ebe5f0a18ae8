"""How an agent fares: what its worker is at, for whoever asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the worker is at. ``state`` is "idle", "working" or "stopping"."""

    state: str
    run: str = ""
    round: int = 0
    step: int = 0
    steps: int = 0
    queued: int = 0
