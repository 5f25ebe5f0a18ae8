"""The adapter that a run began with, at a site whose task compares what it trains with that.

It is public: the coordinator sends it to each site that joins, and its SHA-256 is in the manifest. A site
that joins after the first round, or whose process began anew, needs it as one that was there from the
start does; so it comes with Join, and is kept beside the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping

from client.custody.home import Home
from privacy.durable import write_durably
from privacy.errors import LostError, ProtocolError
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import vector_digest
from tasks.registry import compares_with_start


def first_adapter(home: Home, manifest: Manifest, join: pb.Join | None) -> bytes | None:
    """A run's first adapter, float32[adapter_size] as it is sent; None where nothing is compared with it.

    It is that of ``join``, or the one that ``home`` keeps where the site has joined before. Raises
    ProtocolError unless it is the one whose digest the manifest has, LostError if none is kept.
    """
    if not compares_with_start(manifest.job):
        return None
    if join is not None:
        found = join.start
    else:
        path = home.start_path(manifest)
        if not path.exists():
            raise LostError("the site has lost the adapter that the run began with: send Join again")
        found = path.read_bytes()
    if vector_digest(found) != manifest.start_digest:
        if join is None:
            raise LostError("what the site has kept of the run's first adapter is damaged: send Join again")
        raise ProtocolError(
            f"expected the adapter that the run began with, of SHA-256 {manifest.start_digest[:16]}…, got "
            f"{len(found)} bytes of another one"
        )
    return found


def keep_joined(
    home: Home, manifest: Manifest, join: pb.Join, *, charged: Mapping[str, str], start: bytes | None
) -> None:
    """Remember a run that the site joined, and what it began with: see ``Home.keep``.

    Of runs that nothing was charged for, only the last one's adapter is kept: who asks for many joins fills
    no disk. A site that has lost one says so, and is sent Join again.
    """
    home.keep(manifest, join.signature, charged=charged)
    if start is None:
        return
    path, known = home.start_path(manifest), {*charged, manifest.digest.hex()}
    if not path.exists() or path.read_bytes() != start:
        write_durably(path, start, flush=home.flush)
    for other in path.parent.glob(f"*{path.suffix}"):
        if other.stem not in known:
            other.unlink(missing_ok=True)
