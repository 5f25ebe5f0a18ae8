"""A coordinator and three sites, with TLS and node authentication: rounds, a killed agent, a rogue run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from privacy.identity import Identity
from privacy.ledger.entries import Released
from privacy.ledger.ledger_audit import audit_ledger
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from server.service.flower_cli import FlowerCli
from tests.federation.local import RELAYS, SITES, LocalFederation, local_federation


@pytest.fixture(scope="module", params=RELAYS)
def federation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalFederation]:
    with local_federation(tmp_path_factory.mktemp("federation"), relay=request.param) as running:
        yield running


def ledgers(federation: LocalFederation) -> list[Path]:
    return [federation.home(site) / "ledger.db" for site in SITES]


def charged(federation: LocalFederation, site: str, run: str) -> list[int]:
    """The rounds of a run that a site's ledger holds a charge for, one by one."""
    path = federation.home(site) / "ledger.db"
    events = [entry.event for entry in audit_ledger(path).entries] if path.exists() else []
    return [event.round for event in events if isinstance(event, Released) and event.run == run]


@pytest.mark.process(but=1)
@pytest.mark.parametrize(("rounds", "name"), [(1, "run"), (2, "two-rounds")])
def test_rounds_are_recorded_and_audited(federation: LocalFederation, rounds: int, name: str) -> None:
    model = federation.tiny if rounds == 1 else ()
    process = federation.start_run("--set", f"training.rounds={rounds}", *model, name=name)
    assert federation.wait(process) == 0, federation.said()
    folder = RunFolder.open(federation.coordinator / "runs" / name)
    assert [(record.round, sorted(record.epsilon), record.absent) for record in folder.records()] == [
        (number, sorted(SITES), []) for number in range(1, rounds + 1)
    ]
    assert (folder.path / "report.html").exists()
    audit = audit_run(folder, ledgers(federation))
    assert [(site.site, site.charged) for site in audit.sites] == [(site, rounds) for site in sorted(SITES)]


@pytest.mark.process
def test_a_killed_agent_comes_back_into_its_round(federation: LocalFederation) -> None:
    """Its relay goes on asking, so the round is finished with it.

    What was interrupted is paid for, and told; the steps that are left then do not last for the second
    round, which counts without it.
    """
    process = federation.start_run("--set", "training.local_steps=40", name="killed")
    federation.wait_until(
        lambda: charged(federation, "north", "killed") == [1], what="north to begin the first round"
    )
    federation.kill("agent-north")
    federation.start_agent("north")
    assert federation.wait(process) == 0, federation.said()
    assert charged(federation, "north", "killed") == [1, 1]
    assert charged(federation, "south", "killed") == [1, 2]
    folder = RunFolder.open(federation.coordinator / "runs" / "killed")
    assert [record.absent for record in folder.records()] == [[], ["north"]]
    audit_run(folder, ledgers(federation))


ROGUE_SERVER = '''
import time
from pathlib import Path

from flwr.app import Message, MessageType
from flwr.serverapp import ServerApp

from privacy.identity import Identity
from protocol.messages.confide_pb2 import Join, Request
from protocol.messages.envelope import seal
from protocol.messages.flower import wrap
from protocol.job.manifest import MANIFEST_PURPOSE, read_manifest

app = ServerApp()


@app.main()
def main(grid, context):
    """Ask every site to join a true manifest under a name and a key of one's own."""
    place = Path(context.run_config["place"])
    identity = Identity.load(place / "rogue.key")
    content = (place / "manifest.json").read_bytes()
    manifest = read_manifest(content)
    join = Join(manifest=content, signature=identity.sign(MANIFEST_PURPOSE, content))
    # One after another: where several are on their way, Flower may forget an object that they share.
    answers = []
    for node in sorted(grid.get_node_ids()):
        for site in ("north", "south", "west"):
            now = time.time()
            envelope = seal(
                identity,
                Request(join=join).SerializeToString(),
                run=manifest.run,
                round_number=1,
                sender="coordinator",
                receiver=site,
                counter=10**9,
                sent=now,
                expires=now + 30,
            )
            message = Message(wrap(envelope), node, MessageType.TRAIN)
            answers += grid.send_and_receive([message], timeout=90)
    lines = [answer.error.reason if answer.has_error() else "ANSWERED" for answer in answers]
    (place / "said.partial").write_text("\\n".join(lines))
    (place / "said.partial").rename(place / "said")
'''


@pytest.mark.process
def test_a_killed_relay_comes_back_and_nothing_is_charged_twice(federation: LocalFederation) -> None:
    """Flower lets it in when the old one's heartbeat has lapsed: a round may be over by then."""
    process = federation.start_run("--set", "training.local_steps=40", name="relay-killed")
    federation.wait_until(
        lambda: charged(federation, "north", "relay-killed") == [1], what="north to begin the first round"
    )
    relay = federation.processes["relay-north"].pid
    for child in psutil.Process(relay).children(recursive=True):
        child.kill()
    assert federation.wait(process) == 0, federation.said()
    federation.wait_for_sites()
    assert charged(federation, "north", "relay-killed") in ([1], [1, 2])
    assert charged(federation, "south", "relay-killed") == [1, 2]


@pytest.mark.process
def test_a_rogue_run_trains_nothing(federation: LocalFederation, tmp_path: Path) -> None:
    """Whoever reaches the Control API can start a run; agents refuse what the coordinator did not sign."""
    before = [path.read_bytes() for path in ledgers(federation)]
    Identity.load_or_create(tmp_path / "rogue.key")
    (tmp_path / "manifest.json").write_bytes(
        (federation.coordinator / "runs/run/manifest.json").read_bytes()
    )
    app = tmp_path / "app" / "rogue"
    app.mkdir(parents=True)
    (app / "__init__.py").write_text("")
    (app / "server.py").write_text(ROGUE_SERVER)
    relay = "from client.relay.relay_app import app as installed\n\napp = installed\n"
    (app / "client.py").write_text(relay)
    (app.parent / "pyproject.toml").write_text(
        '[project]\nname = "rogue"\nversion = "1.0.0"\ndescription = ""\nlicense = "Apache-2.0"\n'
        '[tool.flwr.app]\npublisher = "rogue"\nfab-include = ["rogue/*.py"]\n'
        '[tool.flwr.app.components]\nserverapp = "rogue.server:app"\nclientapp = "rogue.client:app"\n'
        '[tool.flwr.app.config]\nplace = ""\n'
    )
    FlowerCli(federation.coordinator / "flower").run(app.parent, {"place": str(tmp_path)})
    federation.wait_until((tmp_path / "said").exists, what="the rogue run to be answered")
    said = (tmp_path / "said").read_text().splitlines()
    assert len(said) == 9
    assert all("signature does not fit" in line for line in said), said
    assert [path.read_bytes() for path in ledgers(federation)] == before
    assert not any(list((federation.home(site) / "pending").glob("*")) for site in SITES)
