"""A coordinator and two sites on hosts of their own, as far as the network goes: a link breaks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from runs.run_folder import RunFolder
from tests.federation.local import RELAYS, SITES, LocalFederation
from tests.federation.test_federation import charged
from tests.needs import find, needs

ADDRESS = "10.213.0.1"
REMOTE = ("north", "south")  # west stands beside the coordinator
DEADLINE = 90  # seconds: a round whose site is cut off lasts as long


class Hosts:
    """Network namespaces: one for the coordinator, one for each remote site, joined by a cable each."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.coordinator = self._namespace("c")
        self._sites = {site: self._namespace(site[0]) for site in REMOTE}
        _ip("-n", self.coordinator, "address", "add", f"{ADDRESS}/32", "dev", "lo")
        for number, site in enumerate(REMOTE, start=1):
            self._cable(site, f"10.213.{number}")

    def inside(self, name: str) -> list[str]:
        """The words that start a process of a federation on its host."""
        host = self._sites.get(name.rpartition("-")[2], self.coordinator)
        return ["ip", "netns", "exec", host]

    def delay(self, site: str, milliseconds: int) -> bool:
        """Slow a site's link down; whether that can be had."""
        words = ("tc", "qdisc", "add", "dev", f"to-{site}", "root", "netem", "delay", f"{milliseconds}ms")
        try:
            _ip("netns", "exec", self.coordinator, *words)
        except subprocess.CalledProcessError:
            return False
        return True

    def cut(self, site: str) -> None:
        _ip("-n", self.coordinator, "link", "set", f"to-{site}", "down")

    def mend(self, site: str) -> None:
        _ip("-n", self.coordinator, "link", "set", f"to-{site}", "up")

    def _namespace(self, letter: str) -> str:
        name = f"confide-{letter}-{os.getpid()}"
        _ip("netns", "add", name)
        self._stack.callback(_ip, "netns", "del", name)
        _ip("-n", name, "link", "set", "lo", "up")
        return name

    def _cable(self, site: str, network: str) -> None:
        near, far = self.coordinator, self._sites[site]
        end = ("type", "veth", "peer", "name", "uplink", "netns", far)
        _ip("-n", near, "link", "add", f"to-{site}", *end)
        _ip("-n", near, "address", "add", f"{network}.1/30", "dev", f"to-{site}")
        _ip("-n", far, "address", "add", f"{network}.2/30", "dev", "uplink")
        _ip("-n", near, "link", "set", f"to-{site}", "up")
        _ip("-n", far, "link", "set", "uplink", "up")
        _ip("-n", far, "route", "add", f"{ADDRESS}/32", "via", f"{network}.1")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    refused = _refused()
    if refused:
        pytest.skip(f"network namespaces are not allowed here: {refused}")
    with ExitStack() as stack:
        yield Hosts(stack)


def _refused() -> str:
    """Why namespaces with cables between them cannot be had; empty if they can."""
    name = f"confide-try-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
        finally:
            _ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return str(error.stderr.decode().strip())
    return ""


@pytest.mark.process
@needs("ip")
@pytest.mark.parametrize("relay", RELAYS)
def test_a_link_that_breaks_costs_its_site_some_rounds(hosts: Hosts, tmp_path: Path, relay: str) -> None:
    federation = LocalFederation(
        tmp_path / "f", relay=relay, address=f"{ADDRESS}:8443", inside=hosts.inside
    )
    try:
        federation.start_server()
        for site in SITES:
            federation.start_site(site)
        federation.wait_for_sites(*SITES)
        hosts.delay("north", 50)
        settings = (
            *("training.rounds=200", "training.local_steps=200", "federation.min_sites=2"),
            f"federation.deadline={DEADLINE}",
        )
        words = (word for setting in settings for word in ("--set", setting))
        process = federation.start_run(*federation.tiny, *words)
        federation.wait_until(
            lambda: charged(federation, "south", "run") == [1], what="south to begin the first round"
        )
        hosts.cut("south")
        run = RunFolder.open(federation.coordinator / "runs" / "run")
        federation.wait_until(lambda: bool(run.records()), what="round 1 to end")
        hosts.mend("south")
        # Its secrets for the second round were to come with its answer to the first; and the others' rounds
        # go on until it is connected again, however many that are.
        federation.wait_until(lambda: not run.records()[-1].absent, what="south to be in a round again")
        assert process.poll() is None
        records = run.records()
        assert [record.absent for record in records] == [["south"]] * (len(records) - 1) + [[]]
        done = [record.round for record in records]
        assert charged(federation, "south", "run")[0] == 1
        assert done[-1] in charged(federation, "south", "run")
        assert set(charged(federation, "north", "run")) >= set(done)
    finally:
        federation.close()


def _ip(*words: str) -> None:
    subprocess.run([find("ip") or "ip", *words], check=True, capture_output=True, timeout=10)
