"""An agent's life: from the data read at its start to the last answer before it stops."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from client.agent.agent import Agent
from client.agent.agent_telemetry import Telemetry
from client.agent.listening import (
    group_number,
    listen_on_socket,
    listen_with_tls,
    only_agent_of,
    relay_certificate,
)
from client.agent.mailbox import Mailbox
from client.agent.site_host import SiteHost
from client.agent.worker import Worker
from client.custody.home import Home
from client.custody.site_file import SiteFile
from protocol.processes.json_log import logged_as_json
from protocol.processes.metrics_page import metrics_page

log = logging.getLogger("confide.agent")

_LAST_ANSWERS = 5.0  # seconds for what is ready to leave, once nothing is worked on


class Service:
    """An agent, serving from ``with`` to its end. ``group`` owns the socket if ``[agent]`` names none.

    Entering raises the custodian's mistakes (UserError), LedgerError, and RunError if the home has an
    agent already or its address is taken.
    """

    def __init__(self, home: Path, site_file: SiteFile, *, group: int | None = None) -> None:
        self._home = home
        self._file = site_file
        self._group = group
        self._stack = ExitStack()
        self._worker: Worker | None = None
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(only_agent_of(self._home))
            stack.enter_context(logged_as_json(self._home / "agent.log", site=self._file.site.name))
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.join()
        if self._server is not None:
            self._server.stop(_LAST_ANSWERS).wait()
        log.info("the agent has stopped")
        self._stack.close()

    def stop(self) -> None:
        """Take no more envelopes, and end what runs after its step. Returns at once."""
        if self._worker is not None:
            self._worker.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing is worked on any more; whether that is so."""
        return self._worker is None or self._worker.join(timeout)

    def _start(self) -> None:
        home, site_file = self._home, self._file
        agent = site_file.agent
        group = group_number(agent.group) if agent.group is not None else self._group
        identity = Home(home).identity()
        coordinator = bytes.fromhex(site_file.rules.coordinator or "")
        mailbox = Mailbox(
            home / "outbox", site=site_file.site.name, identity=identity, coordinator=coordinator
        )
        telemetry = Telemetry()
        worker = Worker(mailbox, queue=agent.queue, telemetry=telemetry)
        resident = SiteHost(home, site_file, between=worker.between, telemetry=telemetry)
        resident.check_ledger()
        pinned = relay_certificate(home) if agent.listen is not None else None
        server = Agent(mailbox, worker, site=site_file.site.name, pinned=pinned).make_server()
        if agent.listen is not None:
            listen_with_tls(server, agent.listen, home=home)
            telemetry.certificate(home / "agent.crt")
        else:
            listen_on_socket(server, Path(str(agent.socket)), group=group)
        if agent.metrics is not None:
            self._stack.enter_context(metrics_page(agent.metrics, telemetry.registry))
        self._stack.callback(resident.close)
        worker.start(resident)
        server.start()
        self._worker, self._server = worker, server
        counts = ", ".join(f"{alias}: {count} examples" for alias, count in resident.examples.items())
        log.info("%s answers at %s; %s", site_file.site.name, agent.listen or agent.socket, counts)
