"""Frames: how many bytes follow, and these bytes, between a process and one that it started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_LENGTH = 8  # bytes before each frame that say how many follow


def write_frame(file: BinaryIO, content: bytes) -> None:
    """Send bytes as one frame."""
    file.write(len(content).to_bytes(_LENGTH, "big"))
    file.write(content)
    file.flush()


def read_frame(file: BinaryIO) -> bytes | None:
    """The next frame; None if the other end is closed, be it within one."""
    head = file.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    length = int.from_bytes(head, "big")
    content = file.read(length)
    return content if len(content) == length else None


def read_frames(file: BinaryIO) -> Iterator[bytes]:
    """All frames, until the other end is closed."""
    while (content := read_frame(file)) is not None:
        yield content
