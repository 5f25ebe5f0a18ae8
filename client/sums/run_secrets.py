"""The secrets of one run at a site: in its home, written down before anything leaves that hangs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Generic

from privacy.durable import make_private_folder, write_durably
from privacy.errors import AggregationError, LostError
from privacy.secagg.kept_secrets import State, dump_state, load_as


class RunSecrets(Generic[State]):
    """A state of one ``kind``, in ``path``, or in memory alone where it is None.

    Each step starts from what is in the file: an engine may have had the last one done by another process.
    """

    def __init__(self, kind: type[State], *, site: str, manifest: bytes, path: Path | None) -> None:
        self._kind: type[State] = kind
        self._whose = site, manifest
        self._path = path
        self._state: State | None = None
        self._content: bytes | None = None

    def find(self) -> State | None:
        """What is kept, if anything is. Raises AggregationError for a file of another site or run."""
        if self._path is not None:
            self._state = self._read(self._path)
        return self._state

    def now(self) -> State:
        """What is kept. Raises LostError if nothing is."""
        state = self.find()
        if state is None:
            raise LostError("this site has no secrets of this run any more: it joins again")
        return state

    def keep(self, state: State) -> None:
        """Keep a state in the last one's place: it is durable when this returns."""
        if self._path is not None:
            make_private_folder(self._path.parent)
            content = dump_state(state)
            write_durably(self._path, content)
            self._content = content
        self._state = state

    def forget(self) -> None:
        """Keep nothing any longer."""
        self._state = self._content = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> State | None:
        if not path.exists():
            return None
        content = path.read_bytes()
        if self._state is not None and content == self._content:
            return self._state
        try:
            state = load_as(self._kind, content)
        except AggregationError as error:
            raise AggregationError(f"{path}: {error}", rule="secrets") from error
        if (state.site, state.manifest) != self._whose:
            raise AggregationError(
                f"{path} is of another site or run: remove it, and the site joins again", rule="secrets"
            )
        self._content = content
        return state
