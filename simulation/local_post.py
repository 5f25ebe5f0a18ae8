"""The post of a simulation: requests go to every node as they are, with nobody in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from privacy.errors import ConfideError, ProtocolError, SiteError
from protocol.messages.confide_pb2 import Reply, Request
from protocol.messages.flower import unwrap, wrap
from server.post.post import (
    Exchange,
    Longest,
    Take,
    any_length,
    check_answers,
    check_length,
    keep_all,
    read_reply,
    refusal,
)
from simulation.round_progress import RoundProgress


class OpenPost:
    """Reaches simulated sites over Flower's Grid.

    ``names`` are those of the nodes that are known beforehand; another has none before its first reply.
    ``progress`` hears who is asked to train.
    """

    def __init__(
        self, grid: Grid, *, names: Mapping[int, str] | None = None, progress: RoundProgress | None = None
    ) -> None:
        self._grid = grid
        self._progress = progress
        self._names = dict(names or {})
        self._nodes: dict[str, int] = {}

    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self._by_name()))

    def _by_name(self) -> dict[str, int]:
        """All nodes, by the names that they have so far."""
        if not self._nodes:
            self._nodes = {self._name(node): node for node in self._grid.get_node_ids()}
        return self._nodes

    def ask(
        self,
        requests: Mapping[str, Request],
        *,
        round_number: int,  # noqa: ARG002 - nobody could mix rounds up
        min_survivors: int,  # noqa: ARG002 - all are waited for: they are functions
        seconds: float,  # noqa: ARG002
        enough: int | None = None,  # noqa: ARG002
        side_requests: Mapping[str, Request] | None = None,
        take: Take = keep_all,
        longest: Longest = any_length,
    ) -> Exchange:
        """Ask, and wait for all. Raises SiteError if a node fails or two have one name."""
        nodes, side_requests = self._by_name(), side_requests or {}
        asked: dict[int, str] = {}
        sent = 0
        # The others are of its kind, and each is made when it is sent.
        first = next(iter(requests.values()), None)
        if self._progress is not None and first is not None and first.HasField("train"):
            self._progress.begin([nodes[name] for name in requests if name in nodes])

        def messages() -> Iterator[Message]:
            """One at a time: each has an adapter in it."""
            nonlocal sent
            named = requests.keys() | side_requests.keys()
            for node, name in sorted((nodes[name], name) for name in named if name in nodes):
                request = side_requests[name] if name in side_requests else requests[name]
                asked[node] = str(request.WhichOneof("kind"))
                content = request.SerializeToString()
                del request
                sent += len(content)
                yield Message(wrap(content), node, MessageType.TRAIN)

        replies: dict[str, Reply] = {}
        refused: dict[str, ConfideError] = {}
        received = 0
        for answer in self._grid.send_and_receive(messages()):
            node = answer.metadata.src_node_id
            if answer.has_error():
                raise SiteError(f"node {node} failed: {answer.error.reason or 'no reason given'}")
            data = unwrap(answer.content)
            received += len(data)
            reply = read_reply(data)
            site, size = reply.site, len(data)
            del answer, data  # an update may be most of what there is in memory
            self._learn(node, site)
            error = refusal(reply)
            if error is not None:
                refused[site] = error
                continue
            check_answers(asked[node], reply)
            try:
                check_length(site, asked[node], size, longest(asked[node]))
                replies[site] = take(site, reply)
            except ProtocolError as broken:
                refused[site] = broken
        if len(replies) + len(refused) != len(asked):
            raise SiteError(f"expected replies from {len(asked)} sites, got {len(replies) + len(refused)}")
        return Exchange(
            replies={name: replies[name] for name in sorted(replies)},
            refused=refused,
            bytes_down=sent,
            bytes_up=received,
        )

    def _name(self, node: int) -> str:
        return self._names.get(node, f"node {node}")

    def _learn(self, node: int, name: str) -> None:
        if self._names.get(node) == name:
            return
        if name in self._names.values():  # it was told by another node
            raise SiteError(f"two nodes call themselves {name}: give each site its own name")
        self._names[node] = name
        self._nodes = {}
