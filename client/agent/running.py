"""A site that runs: its agent, its relay, or both, until someone says stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from client.custody.relay_user import hand_over, relay_user
from client.custody.site_file import SiteFile
from client.relay.relay_program import relay_program
from protocol.processes.flower_process import POLL, Child

log = logging.getLogger("confide.agent")

ONE_USER = (
    "The relay runs as this very user, so that {who} could read what it can: name another in relay.user of "
    "site.toml and start as root, or run the relay in a container of its own"
)
WHO = {"resident": "whoever got hold of it", "flower": "what Flower delivers"}  # by relay.kind


def run_site(
    home: Path, site_file: SiteFile, *, agent: bool, relay: bool, say: Callable[[str], None]
) -> None:
    """Run a site until SIGTERM or SIGINT; the second one ends it at once.

    ``say`` is for what its custodian should see. Raises the errors of what it starts.
    """
    # What an agent writes is its user's alone: ledger, manifests, replies.
    before = os.umask(0o077)
    try:
        with told_to_stop() as stop, ExitStack() as stack:
            user = relay_user(site_file) if relay or os.geteuid() == 0 else None
            if user is not None:
                hand_over(home, user, site_file)
            elif agent and relay:
                say(ONE_USER.format(who=WHO[site_file.relay.kind]))
            service = None
            if agent:
                from client.agent.agent_service import Service  # with torch: a relay needs none

                service = stack.enter_context(Service(home, site_file, group=user.group if user else None))
                say(f"{site_file.site.name} answers at {site_file.agent.listen or site_file.agent.socket}")
            child = None
            if relay:
                program = relay_program(home, site_file, user=user.name if user else None)
                # Flower lets a SuperNode that was killed back in when its last heartbeat has lapsed.
                child = Child(program, say=say, longest_pause=5.0)
                stack.callback(child.stop)
                child.start()
                say(f"The relay of {site_file.site.name} connects to {site_file.site.coordinator}")
            while not stop.wait(POLL):
                if child is not None:
                    child.tend()
            say("Stopping: a round that runs ends after its step; once more to stop at once")
            if service is not None:
                service.stop()
    finally:
        os.umask(before)


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the second of them ends the process."""
    stop = threading.Event()

    def tell(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            # Nothing has to be put in order: ledger and outbox are whole at every moment.
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
