"""One exchange with the sites: a request to each, a reply from each, over Flower's Grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from privacy.errors import BudgetError, SiteError
from protocol.confide_pb2 import Reply, Request
from protocol.flower import unwrap, wrap


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The replies by site, in order of name, and the bytes that crossed."""

    replies: dict[str, Reply]
    bytes_down: int
    bytes_up: int


def exchange(grid: Grid, nodes: Sequence[int], request: Request) -> Exchange:
    """Send one request to every node and wait for all replies.

    Raises SiteError, with the site's own reason, if one refuses, fails or stays silent, and
    BudgetError if one has no budget left for it.
    """
    content = request.SerializeToString()
    # A record for each message: in one process they would otherwise share it.
    messages = [Message(wrap(content), node, MessageType.TRAIN) for node in nodes]
    answers = list(grid.send_and_receive(messages))
    replies: dict[str, Reply] = {}
    received = 0
    for answer in answers:
        if answer.has_error():
            raise SiteError(
                f"node {answer.metadata.src_node_id} failed: {answer.error.reason or 'no reason given'}"
            )
        data = unwrap(answer.content)
        received += len(data)
        try:
            reply = Reply.FromString(data)
        except DecodeError as error:
            raise SiteError(f"a site's reply cannot be parsed: {error}") from error
        if reply.site in replies:
            raise SiteError(f"two nodes call themselves {reply.site}: give each site its own name")
        replies[reply.site] = reply
    if len(replies) != len(nodes):
        raise SiteError(f"expected replies from {len(nodes)} sites, got {len(replies)}")
    for name in sorted(replies):
        _check_accepted(replies[name])
    return Exchange(
        replies={name: replies[name] for name in sorted(replies)},
        bytes_down=len(content) * len(nodes),
        bytes_up=received,
    )


def _check_accepted(reply: Reply) -> None:
    if reply.WhichOneof("kind") != "refused":
        return
    refused = reply.refused
    if refused.budget_spent:
        raise BudgetError(f"{reply.site}: {refused.reason}")
    raise SiteError(f"{reply.site} refused: {refused.reason}", exit_code=refused.exit_code or 1)
