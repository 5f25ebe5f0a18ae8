"""Frames between two processes."""

from __future__ import annotations

import io

from protocol.processes.frames import read_frames, write_frame


def test_frames_are_whole_or_none() -> None:
    file = io.BytesIO()
    for content in (b"", b"a", b"\x00" * 300):
        write_frame(file, content)
    whole = file.getvalue()
    assert list(read_frames(io.BytesIO(whole))) == [b"", b"a", b"\x00" * 300]
    assert list(read_frames(io.BytesIO(whole[:-1]))) == [b"", b"a"]
    assert list(read_frames(io.BytesIO(whole[:11]))) == [b""]
