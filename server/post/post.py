"""One exchange with the sites: a request to each, and whatever came back in time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.message import DecodeError

from privacy.errors import (
    BudgetError,
    ConfideError,
    LostError,
    ProtocolError,
    RunError,
    SiteError,
    UserError,
)
from protocol.messages.confide_pb2 import Reply, Request
from protocol.messages.message_kinds import BY_REQUEST
from protocol.plain_text import told
from runs.formats import format_count


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What came of an exchange, by site in order of name, and the bytes that crossed.

    ``refused`` has the site's own reason, a BudgetError if it has no budget left for what was asked.
    ``silent`` says, for those that gave no answer in time, what is known of why.
    """

    replies: Mapping[str, Reply]
    refused: Mapping[str, ConfideError] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0

    def of(self, kind: str) -> dict[str, Reply]:
        """The answers of one kind, such as ``trained``."""
        return {name: reply for name, reply in self.replies.items() if reply.WhichOneof("kind") == kind}

    def require(self, min_survivors: int, kind: str, *, what: str) -> dict[str, Reply]:
        """The answers of one kind.

        If there are fewer than ``min_survivors``, raises what the first site refused with, or RunError.
        That a budget is spent ends a run for good: it is not raised while the silent sites would be
        enough.
        """
        answers = self.of(kind)
        if len(answers) >= min_survivors:
            return answers
        hopeless = len(answers) + len(self.silent) < min_survivors
        refused = [error for _, error in sorted(self.refused.items())]
        for error in refused:
            if hopeless or not isinstance(error, BudgetError):
                raise error
        known = [f"{name}: {why}" for name, why in sorted(self.silent.items())] + [*map(str, refused)]
        raise RunError(
            f"{what}: expected answers from at least {format_count(min_survivors, 'site')} in time, got "
            f"{len(answers)} ({'; '.join(known) or 'no other site takes part'})"
        )


# What is kept of a site's answer, by whom and what it says. Raises ProtocolError for one that cannot be.
Take = Callable[[str, Reply], Reply]
# How many bytes the answer to a kind of request may have.
Longest = Callable[[str], int]


def keep_all(_site: str, reply: Reply) -> Reply:
    """Keep an answer as it is."""
    return reply


def any_length(_kind: str) -> int:
    """As many bytes as Flower carries."""
    return sys.maxsize


class Post(Protocol):
    """How requests reach sites, and answers come back."""

    def sites(self) -> tuple[str, ...]:
        """The names of all sites that may be asked, connected or not, in order."""
        ...

    def ask(
        self,
        requests: Mapping[str, Request],
        *,
        round_number: int,
        min_survivors: int,
        seconds: float,
        enough: int | None = None,
        side_requests: Mapping[str, Request] | None = None,
        take: Take = keep_all,
        longest: Longest = any_length,
    ) -> Exchange:
        """Send each site its request and wait for the answers, at most ``seconds``.

        Once ``min_survivors`` have answered, those that are no longer connected are not waited for, and
        once ``enough`` have, nobody is. ``side_requests`` go to other sites at the same time, and
        are waited for no longer than the rest. Requests are looked up when they are sent, and again if they
        are sent again: each has an adapter in it.

        Each answer is handed to ``take`` as it comes, once, and only what that gives back is kept. A site
        whose answer it turns down, or is longer than ``longest`` says, counts as one that refused.
        """
        ...


def read_reply(content: bytes) -> Reply:
    """Raises SiteError if the content is no reply."""
    try:
        return Reply.FromString(content)
    except DecodeError as error:
        raise SiteError(f"a site's reply cannot be parsed: {error}") from error


def refusal(reply: Reply) -> ConfideError | None:
    """What a site refused with, None if it did not."""
    if reply.WhichOneof("kind") != "refused":
        return None
    refused, reason = reply.refused, told(reply.refused.reason)
    if refused.budget_spent:
        return BudgetError(f"{reply.site}: {reason}")
    if refused.lost:
        return LostError(f"{reply.site}: {reason}")
    # A site does not choose the coordinator's exit code: 256 would pass for a success.
    mistake = refused.exit_code == UserError.exit_code
    exit_code = UserError.exit_code if mistake else SiteError.exit_code
    return SiteError(f"{reply.site} refused: {reason}", exit_code=exit_code)


def check_length(site: str, kind: str, size: int, longest: int) -> None:
    """Raises ProtocolError for an answer with more bytes than its kind of request can need."""
    if size > longest:
        raise ProtocolError(
            f"{site} sent {size} bytes in answer to {kind}: expected {longest} at most, by the job and its "
            "adapter"
        )


def check_answers(asked: str, reply: Reply) -> None:
    """Raises ProtocolError if a reply that is no refusal answers another kind of request than ``asked``."""
    known, kind = BY_REQUEST.get(asked), reply.WhichOneof("kind")
    if known is None or kind != known.reply:
        raise ProtocolError(f"{reply.site} answered {asked} with {kind or 'nothing'}")
