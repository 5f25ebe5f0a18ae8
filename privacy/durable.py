"""Writing that outlasts a kill, and a power cut where it is flushed to the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# For its owner alone, unless whoever writes says otherwise: most of what lasts is a site's.
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
PUBLIC_FILE = 0o644
BY_UMASK = 0o666  # as the process makes files


def write_durably(path: Path, content: bytes, *, mode: int = PRIVATE_FILE, flush: bool = True) -> None:
    """Write, flush to the disk, rename, flush that too: what is read later is this, whole.

    ``mode`` is a new file's permissions before the process's umask. Without ``flush`` that holds after a
    kill of the process, and not after a power cut.
    """
    write_whole(path, content, mode=mode, flush=flush)
    if flush:
        sync_folder(path.parent)


def write_whole(path: Path, content: bytes, *, mode: int = PRIVATE_FILE, flush: bool = True) -> None:
    """Write, flush to the disk, rename: what is read later is the old content or this, whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def overwrite(path: Path, content: bytes) -> None:
    """Write over a file for its owner alone that is never shorter than it was: all at once for a reader.

    One write of so few bytes is done or is not, whoever is killed. A power cut may leave anything.
    """
    descriptor = open_private(path, os.O_CREAT | os.O_WRONLY)
    try:
        if os.pwrite(descriptor, content, 0) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def append_line(path: Path, line: bytes, *, flush: bool = True) -> None:
    """Put a line at the end of a file of lines, flushed to the disk.

    What a kill left of a line at the end goes: whoever reads the file takes whole lines alone. ``flush`` is
    as for ``write_durably``.
    """
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                end = file.read().rfind(b"\n") + 1
                file.truncate(end)
        file.seek(end)
        file.write(line + b"\n")
        file.flush()
        if flush:
            os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Flush one file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it lasts."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: Path, target: Path) -> None:
    """Make a link point elsewhere, at once: whoever reads it finds the old target or this."""
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.rename(link)


def make_private_folder(path: Path, *, flush: bool = True) -> None:
    """Make a folder that only its owner enters; one that is there stays as it is, and so do those above."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    if flush:
        sync_folder(path.parent)


def open_private(name: str | Path, flags: int) -> int:
    """An opener for ``open``: a file that is made is its owner's alone."""
    return os.open(name, flags, PRIVATE_FILE)
