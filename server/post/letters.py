"""The letters of one exchange: a request on its way to each site, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from privacy.errors import ConfideError
from protocol.messages.confide_pb2 import Reply, Request
from protocol.messages.envelope import TURNED_AWAY
from server.post.post import Exchange, Longest, Take

_LONGEST_PAUSE = 15.0  # seconds before a request that failed is sent again, at most
_MOST_TURNED_AWAY = 3  # times that a site's agent may turn a request away, for its clock say
_MOST_FAILURES = 40  # in a row; then a site is not waited for any longer


@dataclass
class Letter:
    """A request on its way to one site, until there is an answer.

    Its content is sealed whenever it is sent, to the same bytes: with an adapter in each, all at once would
    be much.
    """

    request: Callable[[], Request]
    kind: str = ""  # of the request, known once it was sent
    message: str | None = None  # Flower's id of it, while an answer is awaited
    activation: str = ""  # which life of the SuperNode it went to
    asked: float = 0.0
    due: float = 0.0
    failures: int = 0
    why: str = "it is not connected"
    answer: Reply | None = None
    error: ConfideError | None = None
    received: int = 0
    sent: int = 0

    @property
    def open(self) -> bool:
        return self.answer is None and self.error is None and self.failures < _MOST_FAILURES

    def fail(self, why: str, now: float) -> None:
        self.message, self.why = None, why
        self.failures += 1
        if TURNED_AWAY in why and self.failures >= _MOST_TURNED_AWAY:
            self.failures = _MOST_FAILURES
        self.due = now + min(2.0 ** (self.failures - 1), _LONGEST_PAUSE)


@dataclass
class Letters:
    """One exchange: the letters by site, what every header in it says, and who takes the answers."""

    counter: int
    number: int
    sent: float
    expires: float
    take: Take
    longest: Longest
    by_site: dict[str, Letter] = field(default_factory=dict)

    def outcome(self, *, awaited: set[str]) -> Exchange:
        """What came of them. Of sites that are not ``awaited`` silence is not told."""
        ordered = dict(sorted(self.by_site.items()))
        return Exchange(
            replies={site: letter.answer for site, letter in ordered.items() if letter.answer is not None},
            refused={site: letter.error for site, letter in ordered.items() if letter.error is not None},
            silent={
                site: letter.why
                for site, letter in ordered.items()
                if site in awaited and letter.answer is None and letter.error is None
            },
            bytes_down=sum(letter.sent for letter in ordered.values()),
            bytes_up=sum(letter.received for letter in ordered.values()),
        )
