"""What the folders of all runs have: a manifest, a key, a counter, and what sites signed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeAlias

from privacy.durable import BY_UMASK, sync_folder, write_durably
from privacy.errors import ProtocolError, RunError
from privacy.identity import Identity
from privacy.ledger.receipt import SignedReceipt
from protocol.job.manifest import Manifest, read_manifest
from protocol.processes.time_spent import Part, timed

# The number of a round, or what comes after the last one: the metrics, and a site's own steps. Or what is
# asked before any: statistics.
ReceiptsOf: TypeAlias = int | Literal["metrics", "own-steps", "statistics"]


class AskedFolder:
    """What sites are asked for in one run, on disk. Whatever is read back was whole when it was written.

    Without ``flush`` it outlasts a kill and no power cut: for simulations, whose sites are lost with it.
    ``MANIFEST`` is the file that makes a folder one of its kind, and ``COMMAND`` goes on with it.
    """

    MANIFEST: ClassVar[str]
    COMMAND: ClassVar[str]

    def __init__(self, path: Path, *, flush: bool = True) -> None:
        self.path = path
        self.flush = flush
        self._keys: tuple[tuple[int, int], dict[str, bytes]] | None = None

    @classmethod
    def open(cls, path: Path, *, flush: bool = True) -> Self:
        """Open an existing run. Raises RunError if the folder is none."""
        if not (path / cls.MANIFEST).exists():
            raise RunError(f"{path} is not a run folder: it has no {cls.MANIFEST}")
        return cls(path, flush=flush)

    def _write(self, name: str, content: bytes) -> None:
        write_durably(self.path / name, content, mode=BY_UMASK, flush=self.flush)

    def _sync(self, folder: Path) -> None:
        if self.flush:
            sync_folder(folder)

    @property
    def manifest(self) -> Manifest:
        return read_manifest((self.path / self.MANIFEST).read_bytes())

    @property
    def identity(self) -> Identity:
        """The coordinator's key in this run."""
        return Identity.load_or_create(self.key_path, flush=self.flush)

    @property
    def key_path(self) -> Path:
        return self.path / "coordinator.key"

    @timed(Part.DISK)
    def take_counter(self) -> int:
        """A number that no envelope of this run has had, on disk before it is used. Raises RunError."""
        path = self.path / "counter"
        try:
            taken = int(path.read_text()) + 1 if path.exists() else 1
        except ValueError as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        self._write("counter", str(taken).encode())
        return taken

    @property
    def public_keys(self) -> Mapping[str, bytes]:
        """The sites' keys by name; none before they joined. Raises RunError if they cannot be read."""
        path = self.path / "sites.json"
        try:
            if not path.exists():
                return {}
            found = path.stat()
            stamp = found.st_ino, found.st_mtime_ns
            # It is asked for every answer, and may be of ten thousand sites.
            if self._keys is None or self._keys[0] != stamp:
                table = json.loads(path.read_text())
                self._keys = stamp, {name: bytes.fromhex(key) for name, key in table.items()}
            return self._keys[1]
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error

    @timed(Part.DISK)
    def keep_public_keys(self, keys: Mapping[str, bytes]) -> None:
        """Remember the sites' keys. Raises ProtocolError if a site comes back with another one."""
        known = self.public_keys
        changed = sorted(name for name in known if keys.get(name, known[name]) != known[name])
        if changed:
            raise ProtocolError(f"{changed[0]} answers under another key than the one it joined with")
        if keys.keys() <= known.keys():
            return
        table = {name: key.hex() for name, key in sorted({**known, **keys}.items())}
        self._write("sites.json", json.dumps(table, indent=1).encode())

    def receipts_path(self, of: ReceiptsOf) -> Path:
        """Where a round's receipts are, or those for what comes before the first or after the last."""
        return self.path / "receipts" / (f"{of:03d}.json" if isinstance(of, int) else f"{of}.json")

    def receipts(self, of: ReceiptsOf) -> dict[str, SignedReceipt]:
        """Receipts by site. Raises RunError if they are not there or cannot be read."""
        path = self.receipts_path(of)
        try:
            table = json.loads(path.read_text())
            return {
                name: SignedReceipt(
                    content=kept["content"].encode(), signature=bytes.fromhex(kept["signature"])
                )
                for name, kept in table.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            where = f"round {of}" if isinstance(of, int) else of
            raise RunError(f"{where}: {path} cannot be read: {error}") from error

    @timed(Part.DISK)
    def save_receipts(self, of: ReceiptsOf, receipts: Mapping[str, SignedReceipt]) -> None:
        table = {
            name: {"content": receipt.content.decode(), "signature": receipt.signature.hex()}
            for name, receipt in receipts.items()
        }
        path = self.receipts_path(of)
        path.parent.mkdir(exist_ok=True)
        self._write(str(path.relative_to(self.path)), json.dumps(table, indent=1).encode())
