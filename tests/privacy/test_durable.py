"""Lines and links: whole or not there, whenever a kill comes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.durable import append_line, overwrite, replace_link

line = st.binary(max_size=12).filter(lambda content: b"\n" not in content)


@settings(max_examples=60, deadline=None)
@given(before=st.lists(line, max_size=5), cut=line, new=line)
def test_a_line_comes_after_whole_lines_alone(
    tmp_path_factory: pytest.TempPathFactory, before: list[bytes], cut: bytes, new: bytes
) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines"
    whole = b"".join(one + b"\n" for one in before)
    path.write_bytes(whole + cut)
    append_line(path, new, flush=False)
    assert path.read_bytes() == whole + new + b"\n"


def test_a_line_is_flushed_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
    path = tmp_path / "lines"
    path.touch()
    append_line(path, b"first", flush=False)
    assert flushed == []
    append_line(path, b"second")
    assert flushed == [len(b"first\nsecond\n")]  # not before it is written


def test_a_link_points_elsewhere_after_a_try_that_was_cut_off(tmp_path: Path) -> None:
    link = tmp_path / "link"
    replace_link(link, Path("one"))
    (tmp_path / ".link.partial").symlink_to("half")
    replace_link(link, Path("two"))
    assert link.readlink() == Path("two")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_file_is_written_over_in_one_write_or_it_is_said_to_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "head"
    overwrite(path, b"first")
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_ino
    overwrite(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_ino == before
    monkeypatch.setattr(os, "pwrite", lambda _descriptor, content, _offset: len(content) - 1)
    with pytest.raises(OSError, match="No space left"):
        overwrite(path, b"third!")
