"""Where kept activations lie: in memory, or, where they are many, in a file that the system may drop."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch

from privacy.errors import RunError

# Beyond this a store is a memory-mapped file, which the system may drop from memory.
MEMORY_LIMIT_BYTES = 1 << 30


def allocate(places: int, width: int, dtype: torch.dtype, *, folder: Path | None) -> torch.Tensor:
    """[places, width] of a type, nothing in it. Raises RunError if the disk has no room, and OSError."""
    size = places * width * dtype.itemsize
    if size <= MEMORY_LIMIT_BYTES:
        return torch.empty((places, width), dtype=dtype)
    folder = folder or Path(tempfile.gettempdir())
    if shutil.disk_usage(folder).free < size:
        raise RunError(
            f"the kept activations need more disk than {folder} has: free some, or lower data.limit"
        )
    handle, name = tempfile.mkstemp(dir=folder, prefix="activations-")
    try:
        # Reserve the blocks now: a disk that fills up later would kill the process by signal.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        else:
            os.ftruncate(handle, size)
        flat = torch.from_file(name, shared=True, size=places * width, dtype=dtype)
    finally:
        os.close(handle)
        os.unlink(name)  # the mapping keeps the data; no file of it outlives the process
    return flat.view(places, width)
