"""What the sites of one sum have answered so far, on disk: a coordinator that comes back asks the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.message import DecodeError

from privacy.durable import BY_UMASK, write_durably
from privacy.errors import RunError
from protocol.messages.confide_pb2 import Reply

FILE = "answered.json"


class Journal:
    """The answers to each kind of request of a run's one sum.

    Each step's words follow from the answers to the steps before it: who deals is in the list that is
    dealt for, who dealt is in the cohort, who counted is in what is confirmed. A site answers the same
    words in the same way, and refuses others, since it contributes to no second sum. So what was answered
    is on the disk before the next step is asked for, and a kill at any moment changes nobody's words.
    """

    def __init__(self, folder: Path, *, flush: bool) -> None:
        self._path = folder / FILE
        self._flush = flush
        self._answers: dict[str, dict[str, Reply]] = self._read()

    def answers(self, kind: str) -> Mapping[str, Reply] | None:
        """What a kind of request was answered with, by site; None before it was."""
        return self._answers.get(kind)

    def take(self, kind: str, replies: Mapping[str, Reply]) -> None:
        """Remember answers; they are on the disk after ``keep``."""
        self._answers[kind] = dict(replies)

    def keep(self) -> None:
        """Write all that was taken to the disk."""
        table = {
            kind: {site: reply.SerializeToString().hex() for site, reply in replies.items()}
            for kind, replies in self._answers.items()
        }
        write_durably(self._path, json.dumps(table).encode(), mode=BY_UMASK, flush=self._flush)

    def forget(self) -> None:
        """Remove it: the sum is known."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, dict[str, Reply]]:
        try:
            table = json.loads(self._path.read_text()) if self._path.exists() else {}
            return {
                kind: {site: Reply.FromString(bytes.fromhex(one)) for site, one in replies.items()}
                for kind, replies in table.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, DecodeError) as error:
            raise RunError(f"{self._path} cannot be read: {error}") from error
