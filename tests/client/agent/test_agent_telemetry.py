"""An agent's metrics: what they count, what no label holds, and where they can be read."""

from __future__ import annotations

import math
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from client.agent.agent_telemetry import Telemetry
from client.agent.site_host import SiteHost
from client.custody.site_file import read_site_file
from client.planning import plan_here
from client.training.cancellation import StoppedError
from privacy.errors import BudgetError, PolicyError, RunError, UserError
from privacy.identity import Identity
from privacy.ledger.ledger import Ledger
from privacy.ledger.ledger_audit import audit_ledger
from protocol.messages.envelope import COORDINATOR, open_envelope
from protocol.processes.metrics_page import metrics_page
from simulation.simulated_federation import World
from tests import tiny
from tests.client.agents import SITE, Coordinator, Echo, serving, write_site


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, metrics={"epsilon": 1.0}))


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(f"confide_agent_{name}", labels)


def read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def labels_of(telemetry: Telemetry) -> set[str]:
    return {
        label
        for family in telemetry.registry.collect()
        for sample in family.samples
        for label in sample.labels.values()
    }


# What no label holds.


def test_refusals_are_bounded_whatever_is_thrown() -> None:
    telemetry = Telemetry()
    for number in range(500):
        kind = type(f"Error{number}", (RuntimeError,), {})
        with pytest.raises(RuntimeError), telemetry.counting_refusals():
            raise kind(f"text {number}")
    families = {family.name: family for family in telemetry.registry.collect()}
    assert len(families["confide_agent_refusals"].samples) < 250
    assert value(telemetry, "refusals_total", rule="other") > 400
    assert not any("text" in label for label in labels_of(telemetry))


def test_a_refusal_is_known_by_its_rule_and_not_by_its_text() -> None:
    telemetry = Telemetry()
    for error in (PolicyError("of run secret", rule="rules.least_cohort"), BudgetError("secret")):
        with pytest.raises(type(error)), telemetry.counting_refusals():
            raise error
    assert value(telemetry, "refusals_total", rule="rules.least_cohort") == 1
    assert value(telemetry, "refusals_total", rule="BudgetError") == 1
    assert not any("secret" in label for label in labels_of(telemetry))


def test_a_site_that_stops_refuses_nothing() -> None:
    telemetry = Telemetry()
    with pytest.raises(StoppedError), telemetry.counting_refusals():
        raise StoppedError
    assert value(telemetry, "refusals_total", rule="StoppedError") is None


def test_no_label_holds_what_a_coordinator_chose(tmp_path: Path, coordinator: Coordinator) -> None:
    with serving(tmp_path, coordinator.identity, Echo()) as served:
        for number in range(5):
            served.deliver(coordinator.seal(b"x", run=f"chosen-{number}", round_number=4242 + number))
        found = labels_of(served.worker.telemetry)
    assert not any("chosen" in label or "424" in label for label in found)


# What is counted.


def test_answers_are_counted_once_and_repeats_apart(tmp_path: Path, coordinator: Coordinator) -> None:
    echo = Echo()
    with serving(tmp_path, coordinator.identity, echo) as served:
        telemetry = served.worker.telemetry
        asked = coordinator.seal(b"asked")
        served.deliver(asked)
        served.deliver(asked)
        echo.refuse = True
        served.deliver(coordinator.seal(b"other"))
    assert value(telemetry, "answers_total", kind="joined") == 1
    assert value(telemetry, "answers_total", kind="refused") == 1
    assert value(telemetry, "answers_total", kind="trained") == 0
    assert value(telemetry, "repeated_answers_total") == 1
    assert value(telemetry, "stage_seconds_count", stage="join") == 1
    assert value(telemetry, "stage_seconds_count", stage="queue") == 3
    assert value(telemetry, "stage_seconds_count", stage="seal") == 3
    assert value(telemetry, "bytes_total", direction="in") > 2 * len(asked)
    assert value(telemetry, "bytes_total", direction="out") > 0


def test_what_is_turned_away_is_counted_by_kind(tmp_path: Path, coordinator: Coordinator) -> None:
    with serving(tmp_path, coordinator.identity, Echo()) as served:
        for content in (b"garbage", coordinator.seal(b"x", identity=Identity.generate())):
            with pytest.raises(grpc.RpcError):
                served.deliver(content)
        telemetry = served.worker.telemetry
    counts = [value(telemetry, "turned_away_total", why=why) for why in ("ProtocolError", "SignatureError")]
    assert sum(filter(None, counts)) == 2
    assert all(value(telemetry, "answers_total", kind=kind) == 0 for kind in ("joined", "refused"))


def test_steps_are_counted_as_they_are_taken(tmp_path: Path, coordinator: Coordinator) -> None:
    telemetry = Telemetry()

    class Steps(Echo):
        def answer(self, opened: Any) -> bytes:
            for step in (0, 0, 1, 2):  # asked twice before the first one, never after the last one
                served.worker.between(step, 3)
                seen.append(value(served.worker.telemetry, "steps_total"))
            return super().answer(opened)

    seen: list[float | None] = []
    with serving(tmp_path, coordinator.identity, Steps()) as served:
        served.deliver(coordinator.seal(b"one"))
        served.deliver(coordinator.seal(b"two"))
        telemetry = served.worker.telemetry
    assert seen == [0, 0, 1, 2, 3, 3, 4, 5]
    assert value(telemetry, "steps_total") == 6


def test_the_queue_is_looked_at_when_asked_for(tmp_path: Path, coordinator: Coordinator) -> None:
    with serving(tmp_path, coordinator.identity, Echo()) as served:
        assert value(served.worker.telemetry, "queue_length") == 0
        assert value(served.worker.telemetry, "working") == 0


def test_what_has_no_bound_has_nothing_left() -> None:
    telemetry = Telemetry()
    telemetry.has_spent("notes", spent=math.inf, budget=8.0)
    assert value(telemetry, "epsilon_spent", data="notes") == math.inf
    assert value(telemetry, "epsilon_left", data="notes") == 0
    telemetry.has_spent("notes", spent=9.0, budget=8.0)
    assert value(telemetry, "epsilon_left", data="notes") == 0


# What the ledger says.


@pytest.fixture
def make(tmp_path: Path, tiny_folder: Path, coordinator: Coordinator) -> Callable[[], SiteHost]:
    def resident() -> SiteHost:
        path = write_site(
            tmp_path / "home", tiny_folder, coordinator.identity, rules={"approval": "automatic"}
        )
        return SiteHost(path.parent, read_site_file(path), telemetry=Telemetry(), planner=plan_here)

    return resident


def ask(resident: SiteHost, coordinator: Coordinator, envelope: bytes) -> None:
    public = coordinator.identity.public
    resident.answer(open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE))


def test_what_is_spent_is_told_from_the_start_and_after_each_charge(
    make: Callable[[], SiteHost], world: World, coordinator: Coordinator, tmp_path: Path
) -> None:
    resident = make()
    telemetry = resident._telemetry
    resident.check_ledger()
    assert value(telemetry, "epsilon_spent", data="data") == 0
    assert value(telemetry, "epsilon_left", data="data") == 24.0
    manifest = world.manifest("run")
    ask(resident, coordinator, coordinator.join(manifest))
    ask(resident, coordinator, coordinator.train(manifest, world))
    spent = value(telemetry, "epsilon_spent", data="data")
    assert 0 < spent < 24
    assert value(telemetry, "epsilon_left", data="data") == 24 - spent
    # Another life of the agent knows it before anybody asks, and writes nothing to know it.
    before = len(audit_ledger(tmp_path / "home" / "ledger.db").entries)
    again = make()
    again.check_ledger()
    assert value(again._telemetry, "epsilon_spent", data="data") == spent
    assert len(audit_ledger(tmp_path / "home" / "ledger.db").entries) == before


def test_a_charge_is_told_before_the_round_ends(
    make: Callable[[], SiteHost], world: World, coordinator: Coordinator
) -> None:
    resident = make()
    manifest = world.manifest("run")
    ask(resident, coordinator, coordinator.join(manifest))
    seen: list[float | None] = []

    def between(step: int, _steps: int) -> None:
        seen.append(value(resident._telemetry, "epsilon_spent", data="data"))
        if step == 1:
            raise StoppedError

    resident._between = between
    with pytest.raises(StoppedError):
        ask(resident, coordinator, coordinator.train(manifest, world))
    assert seen[0] == 0
    assert seen[-1] > 0


def test_metrics_never_stand_in_an_answers_way(
    make: Callable[[], SiteHost],
    world: World,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident = make()

    def fails(*_arguments: Any) -> float:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Ledger, "epsilon", fails)
    ask(resident, coordinator, coordinator.join(world.manifest("run")))


# Where they can be read.


@pytest.mark.parametrize(
    "address", ["9464", "host", ":9464", "host:", "host:70000", "::1:9464", "http://h:1"]
)
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(UserError, match="expected host:port"), metrics_page(address, CollectorRegistry()):
        pass


def test_an_address_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(RunError, match="name another address"),
            metrics_page(address, CollectorRegistry()),
        ):
            pass


def test_the_page_is_what_prometheus_reads_and_ends_with_its_block() -> None:
    telemetry = Telemetry()
    telemetry.has_spent("notes", spent=1.5, budget=8.0)
    with metrics_page("127.0.0.1:0", telemetry.registry) as address:
        families = {family.name: family for family in text_string_to_metric_families(read(address))}
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://{address}/metrics", data=b"x", timeout=10)
    assert families["confide_agent_epsilon_left"].samples[0].value == 6.5
    assert all(name.startswith(("confide_agent_", "process_")) for name in families)
    with pytest.raises(urllib.error.URLError):
        read(address)


def test_who_says_nothing_does_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.processes.metrics_page._PATIENCE", 0.2)
    with metrics_page("127.0.0.1:0", Telemetry().registry) as address:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))):
            assert "confide_agent_queue_length" in read(address)


def test_the_relay_has_no_way_to_them(tmp_path: Path, coordinator: Coordinator) -> None:
    """The socket that the relay has knows two methods, and what Health says is not of the ledger."""
    with serving(tmp_path, coordinator.identity, Echo()) as served:
        with grpc.insecure_channel(served.address) as channel:
            for method in ("/confide.Agent/Metrics", "/metrics", "/grpc.health.v1.Health/Check"):
                call = channel.unary_unary(method)
                with pytest.raises(grpc.RpcError) as caught:
                    call(b"", timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(served.path))
            plain.settimeout(10)
            plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"confide_agent" not in plain.recv(65536)
